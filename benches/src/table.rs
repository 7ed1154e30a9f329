//! What a measurement tells: lines and tables on stdout.
#![expect(clippy::print_stdout, reason = "a command line program talks on stdout")]

/// One line.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// What the figures of this run are worth.
pub(crate) fn preamble(title: &str) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    println!("\n{title}\n{cores} cores, load {load} at the start, all on 127.0.0.1");
    if cfg!(debug_assertions) {
        println!("WARNING: not a release build; the figures mean nothing");
    }
}

/// Rows under a head; the first column to the left, the others to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        for row in self.aligned() {
            println!("{row}");
        }
    }

    fn aligned(&self) -> Vec<String> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let told = |row: &Vec<String>| {
            let cells = widths.iter().enumerate().map(|(column, &width)| {
                let text = cell(row, column);
                if column == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["who", "ops/s"]);
        table.row(vec!["skep".to_owned(), "12345".to_owned()]);
        table.row(vec!["bare axum".to_owned(), "7".to_owned()]);
        let told = ["who        ops/s", "skep       12345", "bare axum      7"];
        assert_eq!(table.aligned(), told);
    }
}
