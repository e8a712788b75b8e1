//! Tables for people: markdown, with its columns aligned.

/// A markdown table of rows, the first being the heading.
pub fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(3)
    };
    let line = |cell: &dyn Fn(usize) -> String| -> String {
        let cells: Vec<String> = (0..columns)
            .map(|column| format!("{:<1$}", cell(column), width(column)))
            .collect();
        format!("| {} |", cells.join(" | "))
    };
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        lines.push(line(&|column| row.get(column).cloned().unwrap_or_default()));
        if number == 0 {
            lines.push(line(&|column| "-".repeat(width(column))));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["".to_owned(), "Sluice".to_owned()],
            vec!["exits".to_owned(), "18".to_owned()],
        ];
        assert_eq!(
            markdown(&rows),
            "|       | Sluice |\n| ----- | ------ |\n| exits | 18     |"
        );
    }
}
