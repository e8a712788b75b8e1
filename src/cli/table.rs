//! Tables: a line for each thing, with its name at the end. Columns in which all have nothing are
//! left out, and those that do not fit the page, the least wanted first; the name has what is
//! left.

use super::page::{Page, fit, width};

/// A column of a table of `T`s.
pub struct Column<T> {
    heading: &'static str,
    cell: fn(&T) -> String,
    rank: u8,
}

/// A column under `heading`. Those of greater rank go first; those of rank 0 stay.
pub const fn column<T>(rank: u8, heading: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column {
        heading,
        cell,
        rank,
    }
}

/// What a cell says of nothing.
pub fn none() -> String {
    "-".to_owned()
}

const NAME: &str = "NAME";
/// The name is not cut below this for other columns' sake.
const NAME_ROOM: usize = 30;
const GAP: usize = 2;

/// The table of `items` under its headings.
pub fn render<T>(
    columns: &[Column<T>],
    items: &[T],
    name: impl Fn(&T) -> String,
    page: Page,
) -> String {
    let columns = columns_for(columns, items, page);
    let taken: usize = columns.iter().map(|(_, width)| width + GAP).sum();
    let room = page
        .width()
        .map(|all| all.saturating_sub(taken).max(NAME.len()));
    let line = |cells: &mut dyn Iterator<Item = String>, name: &str| -> String {
        let mut line = String::new();
        for (cell, (_, width)) in cells.zip(&columns) {
            line += &fit(&cell, width + GAP);
        }
        line += &room.map_or_else(|| name.to_owned(), |room| fit(name, room));
        line.trim_end().to_owned() + "\n"
    };
    let mut headings = columns.iter().map(|(c, _)| c.heading.to_owned());
    let mut text = line(&mut headings, NAME);
    for item in items {
        let mut cells = columns.iter().map(|(c, _)| (c.cell)(item));
        text += &line(&mut cells, &name(item));
    }
    text
}

/// The columns that fit, and their widths.
fn columns_for<'a, T>(
    columns: &'a [Column<T>],
    items: &[T],
    page: Page,
) -> Vec<(&'a Column<T>, usize)> {
    let wanted = |column: &Column<T>| {
        let cells = items.iter().map(|item| width(&(column.cell)(item)));
        cells.max().unwrap_or(0).max(column.heading.len())
    };
    let says_something = |column: &&Column<T>| {
        let mut cells = items.iter().map(|item| (column.cell)(item));
        column.rank == 0 || cells.any(|cell| cell != none())
    };
    let shown = columns.iter().filter(says_something);
    let mut shown: Vec<_> = shown.map(|c| (c, wanted(c))).collect();
    let Some(room) = page.width() else {
        return shown;
    };
    let greatest = columns.iter().map(|column| column.rank).max();
    for rank in (1..=greatest.unwrap_or(0)).rev() {
        let taken: usize = shown.iter().map(|(_, width)| width + GAP).sum();
        if taken + NAME_ROOM <= room {
            break;
        }
        shown.retain(|(column, _)| column.rank != rank);
    }
    shown
}
