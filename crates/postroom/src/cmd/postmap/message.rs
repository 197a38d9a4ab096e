//! `-h` and `-b` with `-q -`: the headers or the body lines of a message are the keys.

use std::io::Read;
use std::process::ExitCode;

use mail::mime::{Depth, Piece, pieces};

use super::Fatal;
use super::maps::Maps;
use super::options::Options;
use super::query::Output;

/// Looks up what header_checks(5) and body_checks(5) would ask for.
pub(super) async fn query_message(maps: &Maps, options: &Options) -> Result<ExitCode, Fatal> {
    let mut message = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut message)
        .map_err(|error| Fatal(format!("read standard input: {error}")))?;
    let depth = match options.mime {
        true => Depth::Parts,
        false => Depth::Message,
    };
    let mut output = Output::default();
    let mut found = false;
    for piece in pieces(&message, depth) {
        let key = match piece {
            Piece::Header(_, key) if options.headers => key,
            Piece::Body(key) if options.body => key,
            _ => continue,
        };
        if let Some(value) = maps.lookup(&key).await? {
            found = true;
            output.push(&[&key[..], maps.separator, &value, b"\n"].concat())?;
        }
    }
    output.finish()?;
    Ok(match found {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
