//! A contact sheet: one HTML file with the pictures in it.

use std::fmt::Write as _;
use std::path::Path;

use ocelli_photos::{Found, camera, path_of, thumbnail_of, when};

use crate::html::{base64, escape};
use crate::whole::write_whole;

/// Longer side of the small copies.
const SIDE: usize = 320;

const STYLE: &str = "\
:root{color-scheme:light dark;font:15px/1.4 system-ui,sans-serif}body{margin:1.5rem}h1{font-size:1.2rem}
ul{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem;padding:0;list-style:none}
li{overflow:hidden}img{width:100%;height:14rem;object-fit:cover;border-radius:4px;background:#8884}
a{color:inherit}.none{height:14rem;display:grid;place-items:center;background:#8884;border-radius:4px}
small{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}";

/// Write the pictures of a search; those whose file cannot be read any more have no image.
///
/// # Errors
/// When the file cannot be written.
pub fn write(file: &Path, query: &str, found: &[Found]) -> anyhow::Result<()> {
    write_whole(file, page(query, found).as_bytes())
}

fn page(query: &str, found: &[Found]) -> String {
    let query = escape(query);
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{query}</title><style>{STYLE}</style><h1>{query}: {} found</h1><ul>\n",
        found.len()
    );
    for found in found {
        let path = path_of(&found.picture);
        let image = match found.picture.files.iter().find_map(|file| thumbnail_of(file, SIDE).ok()) {
            Some(jpeg) => format!("<img alt=\"\" src=\"data:image/jpeg;base64,{}\">", base64(&jpeg)),
            None => "<span class=\"none\">cannot be read</span>".to_owned(),
        };
        let details = [when(&found.picture.details), camera(&found.picture.details)];
        let details: Vec<String> = details.into_iter().flatten().map(|text| escape(&text)).collect();
        let name = Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "<li><a href=\"{}\">{image}</a><small title=\"{}\">{:.2} {}</small><small>{}</small></li>",
            escape(&file_url(&path)),
            escape(&path),
            found.score,
            escape(&name),
            details.join(", ")
        );
    }
    page + "</ul></html>\n"
}

/// RFC 8089: all but unreserved bytes are escaped.
fn file_url(path: &str) -> String {
    let mut url = "file://".to_owned();
    for &byte in path.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_page() {
        assert_eq!(escape("<a b=\"&\">"), "&lt;a b=&quot;&amp;&quot;&gt;");
        assert_eq!(file_url("/a b/ü%\"'.jpg"), "file:///a%20b/%C3%BC%25%22%27.jpg");
    }
}
