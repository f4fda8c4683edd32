//! Columns of text.

use core::fmt;

/// Lines of cells, each column as wide as its widest cell; numbers are set right.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self(vec![head.iter().map(ToString::to_string).collect()])
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.first().map_or(0, Vec::len);
        let column = |index: usize| self.0.iter().filter_map(move |row| row.get(index));
        let is_number = |cell: &String| cell.parse::<u64>().is_ok();
        let shapes: Vec<(usize, bool)> = (0..columns)
            .map(|index| {
                let width = column(index).map(|cell| cell.chars().count()).max();
                let mut rows = column(index).skip(1).peekable();
                (width.unwrap_or(0), rows.peek().is_some() && rows.all(is_number))
            })
            .collect();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, (width, right)) in row.iter().zip(&shapes) {
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *right { (pad.as_str(), "") } else { ("", pad.as_str()) };
                line.extend([before, cell, after, "  "]);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_numbers_set_right() {
        let mut table = Table::new(&["eni", "free", "subnet"]);
        table.row(["eni-1".to_string(), "7".to_string(), "a".to_string()]);
        table.row(["eni-22".to_string(), "12000".to_string(), String::new()]);
        let expected = "\
eni      free  subnet
eni-1       7  a
eni-22  12000
";
        assert_eq!(table.to_string(), expected);
    }
}
