//! Which slices of event time the rows of a batch fall into.

use std::collections::BTreeMap;

use datafusion::arrow::array::{Int64Array, UInt32Array};
use tidemill_contract::Micros;

use super::group::Group;

/// Start and end of a slice.
type Bounds = (Micros, Micros);

impl Group {
    /// The slices the rows fall into, ascending; `None` instead of a list means all rows.
    pub(super) fn assign(&self, time: &Int64Array) -> Vec<(Bounds, Option<UInt32Array>)> {
        let times = time.values();
        let (mut least, mut most) = (Micros::MAX, Micros::MIN);
        for value in times {
            least = least.min(*value);
            most = most.max(*value);
        }
        let mut current = self.slice_around(least);
        if most < current.1 {
            return vec![(current, None)];
        }
        let mut members: Vec<(Bounds, Vec<u32>)> = vec![(current, Vec::new())];
        // Rows a little out of order go back and forth between slices: each is computed once.
        let mut by_start = BTreeMap::from([(current.0, 0)]);
        let mut place = 0;
        for (row, value) in times.iter().enumerate() {
            if *value < current.0 || *value >= current.1 {
                let known = by_start.range(..=*value).next_back().map(|(_, place)| *place);
                place = known.filter(|place| *value < members[*place].0.1).unwrap_or_else(|| {
                    let bounds = self.slice_around(*value);
                    by_start.insert(bounds.0, members.len());
                    members.push((bounds, Vec::new()));
                    members.len() - 1
                });
                current = members[place].0;
            }
            members[place].1.push(row as u32);
        }
        members.sort_unstable_by_key(|(bounds, _)| *bounds);
        members.into_iter().map(|(bounds, rows)| (bounds, Some(rows.into()))).collect()
    }

    fn slice_around(&self, time: Micros) -> Bounds {
        let (mut start, mut end) = (Micros::MIN, Micros::MAX);
        for window in self.windows.values() {
            start = start.max(window.grid().edge_at_or_before(time));
            end = end.min(window.grid().edge_after(time));
        }
        (start, end)
    }
}
