//! Text that tests compare with files in `src/cli/golden`. With `UPDATE_GOLDEN=1` they
//! write the files instead; read the difference before you commit it.

use std::path::Path;

/// `text` is what the file says.
#[track_caller]
pub fn assert_golden(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/golden");
    let file = folder.join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        text == wanted,
        "not as in {name} (UPDATE_GOLDEN=1 writes it anew); it is now:\n{text}"
    );
}
