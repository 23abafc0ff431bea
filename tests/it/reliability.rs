//! The reliability figures: what happens under kills, faulty stores, zombies, lost offsets, poison
//! and too little memory. Each figure has a short form that always runs and a long form, chosen
//! with `TIDEMILL_LONG=1`, whose figures stand in `RELIABILITY.md`.

pub(crate) mod bucket;
mod crash;
mod f11_hostile_sql;
mod f11_memory;
mod f19_flips;
mod f19_full;
mod f19_power;
mod f1_kill_loop;
mod f2_fail_points;
mod f4_broker_faults;
mod f4_store_faults;
mod f5_zombies;
mod f7_recovery;
mod f8_offsets;
mod f9_poison;
mod rig;
mod seeded_bugs;
mod victim;

/// The long form was asked for.
pub(crate) fn is_long() -> bool {
    std::env::var_os("TIDEMILL_LONG").is_some_and(|value| value == "1")
}
