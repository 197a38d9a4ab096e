//! The events that milters are told of, with their bits in the negotiation.

use super::macros::Stage;
use super::packet::{Edit, Reply};

/// One kind of event.
#[derive(Debug)]
pub struct Event {
    pub letter: u8,
    /// As the log names it.
    pub name: &'static str,
    pub stage: Option<Stage>,
    /// The milter does not want it.
    pub skip: u32,
    /// The milter does not answer it.
    pub no_reply: u32,
    /// A refusal is of the client, not of a message.
    pub of_connection: bool,
    /// `milter_content_timeout` counts.
    pub of_content: bool,
}

const fn event(
    letter: u8,
    name: &'static str,
    stage: Option<Stage>,
    skip: u32,
    no_reply: u32,
) -> Event {
    Event {
        letter,
        name,
        stage,
        skip,
        no_reply,
        of_connection: matches!(letter, b'C' | b'H'),
        of_content: matches!(letter, b'L' | b'N' | b'B' | b'E'),
    }
}

pub const CONNECT: Event = event(b'C', "SMFIC_CONNECT", Some(Stage::Connect), 0x1, 0x1000);
pub const HELO: Event = event(b'H', "SMFIC_HELO", Some(Stage::Helo), 0x2, 0x2000);
pub const MAIL: Event = event(b'M', "SMFIC_MAIL", Some(Stage::Mail), 0x4, 0x4000);
pub const RCPT: Event = event(b'R', "SMFIC_RCPT", Some(Stage::Rcpt), 0x8, 0x8000);
pub const DATA: Event = event(b'T', "SMFIC_DATA", Some(Stage::Data), 0x200, 0x1_0000);
pub const UNKNOWN: Event = event(b'U', "SMFIC_UNKNOWN", Some(Stage::Unknown), 0x100, 0x2_0000);
pub const HEADER: Event = event(b'L', "SMFIC_HEADER", None, 0x20, 0x80);
pub const END_OF_HEADER: Event = event(b'N', "SMFIC_EOH", Some(Stage::EndOfHeader), 0x40, 0x4_0000);
pub const BODY: Event = event(b'B', "SMFIC_BODY", None, 0x10, 0x8_0000);
pub const END_OF_MESSAGE: Event = event(b'E', "SMFIC_BODYEOB", Some(Stage::EndOfData), 0, 0);

/// The milter wants to hear of recipients that are refused.
pub const REFUSED_RECIPIENTS: u32 = 0x800;
/// Header values are sent and given with the blank behind the colon.
pub const LEADING_SPACE: u32 = 0x10_0000;

/// The steps that a version of the protocol knows.
pub const fn steps_of(version: u32) -> u32 {
    match version {
        ..=2 => 0xff,
        3 => 0x1ff,
        4 | 5 => 0x3ff,
        _ => 0x1f_ffff,
    }
}

/// Events that a version of the protocol does not have.
pub const fn missing_in(version: u32) -> u32 {
    match version {
        ..=2 => UNKNOWN.skip | DATA.skip,
        3 => DATA.skip,
        _ => 0,
    }
}

/// A reply as the log names it where it should not have come.
pub fn letter_name(reply: &Reply) -> &'static str {
    match reply {
        Reply::Skip => "SMFIR_SKIP",
        Reply::Edit(Edit::AddHeader { .. }) => "SMFIR_ADDHEADER",
        Reply::Edit(Edit::InsertHeader { .. }) => "SMFIR_INSHEADER",
        Reply::Edit(Edit::ChangeHeader { .. }) => "SMFIR_CHGHEADER",
        Reply::Edit(Edit::AddRecipient { .. }) => "SMFIR_ADDRCPT",
        Reply::Edit(Edit::DeleteRecipient { .. }) => "SMFIR_DELRCPT",
        Reply::Edit(Edit::ChangeSender { .. }) => "SMFIR_CHGFROM",
        Reply::Edit(Edit::ReplaceBody(_)) => "SMFIR_REPLBODY",
        Reply::Edit(Edit::Quarantine { .. }) => "SMFIR_QUARANTINE",
        _ => "(unknown filter reply)",
    }
}
