//! `ocelli search --web`.

use std::io::Write;

use ocelli_photos::PhotoSearch;
use ocelli_server::Server;

use super::search::open_file;

/// Serve the search page until Ctrl-C.
pub fn serve(photos: PhotoSearch, port: u16, open: bool) -> anyhow::Result<bool> {
    let server = Server::bind(photos, port)?;
    let stopper = server.stopper();
    ctrlc::set_handler(move || {
        // The second time, searches in hand are not waited for.
        if stopper.stop() {
            std::process::exit(1);
        }
    })?;
    let address = server.address();
    let mut out = std::io::stdout();
    writeln!(out, "{address}")?;
    out.flush()?;
    eprintln!("the search page is at {address}, for this machine alone; Ctrl-C ends");
    if open {
        // The page is served all the same.
        if let Err(error) = open_file(address.as_ref()) {
            eprintln!("ocelli: {error:#}");
        }
    }
    server.run()?;
    Ok(true)
}
