//! A picture that was found, as a line of text.

use ocelli_photos::{Found, camera, path_of, when};

use crate::message::printable;

/// One line: score, path, and what is known of it.
pub fn line(found: &Found) -> String {
    let mut line = format!("{:.2}  {}", found.score, printable(&path_of(&found.picture)));
    for part in [when(&found.picture.details), camera(&found.picture.details)].into_iter().flatten() {
        line += "  ";
        line += &printable(&part);
    }
    line
}
