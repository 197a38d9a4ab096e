//! The rows of a result, kept flat: one buffer, and where each value lies in it.

use std::ops::Range;

/// All values of a result, row by row, column by column.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    data: Vec<u8>,
    cells: Vec<Option<Range<u32>>>,
}

impl Rows {
    pub fn push(&mut self, value: Option<&[u8]>) {
        self.cells.push(value.map(|bytes| {
            let start = self.data.len() as u32;
            self.data.extend_from_slice(bytes);
            start..self.data.len() as u32
        }));
    }

    /// Forgets everything: a later result replaces an earlier one.
    pub fn clear(&mut self) {
        self.data.clear();
        self.cells.clear();
    }

    /// The values; `None` is NULL.
    pub fn cells(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.cells.iter().map(|cell| {
            cell.as_ref()
                .map(|range| &self.data[range.start as usize..range.end as usize])
        })
    }
}
