//! Reading the slice store: the merge of all slices of a window.
//!
//! A window that overlaps few others is merged from its slices each time. One that overlaps many
//! has a running merge that moves on with it, as far as its aggregates can be taken out again.
//!
//! **Invariant.** A slice that is in a running merge is one chunk; what comes late is in its live
//! part until it is sealed, and then in the running merges too.

use datafusion::arrow::array::{ArrayRef, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::common::Result;
use tidemill_contract::{Micros, WindowBounds};

use super::running::Running;
use super::slice::{Partials, Slice};
use super::store::SliceStore;

/// About what a running merge takes for a key: its count, and a few states.
const RUNNING_BYTES_PER_KEY: usize = 48;
/// Bytes that running merges may take in any case; beyond that they take at most twice what the
/// slices they are made of do.
const RUNNING_BYTES_FREE: usize = 1 << 20;

/// Ids of keys, and for each the final value of some aggregates.
pub(crate) type Merged = (UInt32Array, Vec<ArrayRef>);

impl SliceStore {
    /// Index of the running merge for a window declaration and some aggregates; `None` if none of
    /// them can be taken out again.
    pub(crate) fn running_index(
        &mut self,
        window: String,
        aggregates: &[usize],
    ) -> Result<Option<usize>> {
        let known = self.running.iter().position(|(own, _)| *own == window);
        let index = known.unwrap_or_else(|| {
            self.running.push((window, Running::default()));
            self.running.len() - 1
        });
        for aggregate in aggregates {
            self.running[index].1.keep(*aggregate, &self.aggregates[*aggregate])?;
        }
        Ok((!self.running[index].1.is_empty()).then_some(index))
    }

    /// Ids of keys and final aggregate values of a window, `None` if it holds no row. With the
    /// index of its running merge, that is moved on to the window.
    pub(crate) fn window(
        &mut self,
        window: WindowBounds,
        aggregates: &[usize],
        running: Option<usize>,
    ) -> Result<Option<Merged>> {
        match running {
            Some(index) if self.move_running(index, window)? => {
                self.read_running(index, window, aggregates)
            }
            _ => self.merge(window, aggregates),
        }
    }

    /// Merges all slices of a window; `None` if it holds no row.
    fn merge(&mut self, window: WindowBounds, aggregates: &[usize]) -> Result<Option<Merged>> {
        self.seal_within(window)?;
        let mut merged = Partials::new(aggregates.iter().map(|index| &self.aggregates[*index]))?;
        let mut any = false;
        for chunk in self.slices.range(window.start..window.end).flat_map(|(_, s)| &s.chunks) {
            any = true;
            merged.merge(chunk, aggregates)?;
        }
        any.then(|| merged.finish()).transpose()
    }

    /// What a running merge holds of the window it was moved to, and the aggregates that it does
    /// not keep by merging all slices.
    fn read_running(
        &mut self,
        index: usize,
        window: WindowBounds,
        aggregates: &[usize],
    ) -> Result<Option<Merged>> {
        let running = &self.running[index].1;
        let ids = running.ids();
        if ids.is_empty() {
            return Ok(None);
        }
        let of = |is_kept: bool| -> (Vec<usize>, Vec<usize>) {
            let all = aggregates.iter().copied().enumerate();
            all.filter(|(_, index)| running.keeps(*index) == is_kept).unzip()
        };
        let ((kept_places, kept), (left_places, left)) = (of(true), of(false));
        let mut merged = Partials::new(kept.iter().map(|index| &self.aggregates[*index]))?;
        let states: Vec<_> = kept.iter().filter_map(|index| running.state(*index, &ids)).collect();
        merged.merge_states(&ids, states.iter())?;
        let mut placed: Vec<(usize, ArrayRef)> =
            kept_places.into_iter().zip(merged.finish()?.1).collect();
        if !left.is_empty()
            && let Some((own, values)) = self.merge(window, &left)?
        {
            placed.extend(left_places.into_iter().zip(in_order(&ids, &own, &values)?));
        }
        placed.sort_by_key(|(place, _)| *place);
        Ok(Some((ids, placed.into_iter().map(|(_, values)| values).collect())))
    }

    /// Moves a running merge on to a window; false if it cannot go there, or would take more memory
    /// than it is worth.
    fn move_running(&mut self, index: usize, window: WindowBounds) -> Result<bool> {
        if !self.running[index].1.reaches(window) {
            return Ok(false);
        }
        let (start, end) = self.running[index].1.range();
        if window.start >= end {
            self.running[index].1.clear();
            let keys = self.keys.len() * RUNNING_BYTES_PER_KEY;
            if self.running_bytes() + keys > RUNNING_BYTES_FREE + 2 * self.slice_bytes() {
                return Ok(false);
            }
        } else {
            for (_, slice) in self.slices.range(start..window.start) {
                for chunk in &slice.chunks {
                    self.running[index].1.take_out(chunk)?;
                }
            }
        }
        self.seal_within(window)?;
        let fresh: Vec<Micros> =
            self.slices.range(end.max(window.start)..window.end).map(|(start, _)| *start).collect();
        for start in fresh {
            self.make_whole(start)?;
            for chunk in self.slices.get(&start).into_iter().flat_map(|slice| &slice.chunks) {
                self.running[index].1.add(chunk)?;
            }
        }
        self.running[index].1.moved_to(window);
        Ok(true)
    }

    /// Makes one chunk of a slice, and lets the running merges that it is in know.
    fn make_whole(&mut self, start: Micros) -> Result<()> {
        let Some(slice) = self.slices.get_mut(&start).filter(|slice| !slice.is_whole()) else {
            return Ok(());
        };
        let mut covering: Vec<&mut Running> = self
            .running
            .iter_mut()
            .map(|(_, running)| running)
            .filter(|running| running.covers(start))
            .collect();
        for running in &mut covering {
            slice.chunks.iter().try_for_each(|chunk| running.take_out(chunk))?;
        }
        slice.seal_whole(&self.aggregates)?;
        for running in covering {
            slice.chunks.iter().try_for_each(|chunk| running.add(chunk))?;
        }
        Ok(())
    }

    /// Seals a slice.
    fn seal_slice(&mut self, start: Micros) -> Result<()> {
        if self.running.iter().any(|(_, running)| running.covers(start)) {
            return self.make_whole(start);
        }
        self.slices.get_mut(&start).map_or(Ok(()), |slice| slice.seal(&self.aggregates))
    }

    fn seal_within(&mut self, window: WindowBounds) -> Result<()> {
        let live = self.slices.range(window.start..window.end);
        let live = live.filter(|(_, slice)| slice.live.is_some()).map(|(start, _)| *start);
        live.collect::<Vec<Micros>>().into_iter().try_for_each(|start| self.seal_slice(start))
    }

    /// Seals every slice, so that only chunks remain.
    pub(crate) fn seal(&mut self) -> Result<()> {
        self.seal_within(WindowBounds { start: Micros::MIN, end: Micros::MAX })
    }

    /// A slice goes: running merges that it is in begin after it.
    pub(super) fn leave_running(&mut self, start: Micros, slice: &Slice) -> Result<()> {
        for (_, running) in &mut self.running {
            if running.covers(start) {
                slice.chunks.iter().try_for_each(|chunk| running.take_out(chunk))?;
                running.starts_at(slice.end);
            }
        }
        Ok(())
    }
}

/// Values that belong to the keys `own`, in the order of the same keys in `ids`.
fn in_order(ids: &UInt32Array, own: &UInt32Array, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    let mut places = vec![0_u32; own.values().iter().max().map_or(0, |id| *id as usize + 1)];
    for (place, id) in (0_u32..).zip(own.values()) {
        places[*id as usize] = place;
    }
    let order = UInt32Array::from_iter_values(ids.values().iter().map(|id| places[*id as usize]));
    values.iter().map(|column| Ok(take(column, &order, None)?)).collect()
}
