//! The config mechanisms, and BARs that move.

use crate::disk::Image;
use crate::guest::{in_company, passes};
use crate::net;

#[test]
fn config_mechanisms_agree() {
    let _turn = in_company();
    let image = Image::new("config.img", 64);
    passes("config", "", &["--disk", &image.flag()]);
}

#[test]
fn bars_move() {
    let _turn = in_company();
    let image = Image::new("bars.img", 64);
    net::with_tap(|tap| {
        passes("bars", "", &["--disk", &image.flag(), "--net", &tap.flag()]);
    });
}
