//! `postroom explain`: where mail for an address goes, and why.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use config::{Config, Environment};

use super::options::{self, EX_CONFIG, EX_TEMPFAIL, EX_USAGE};
use super::tool_log;

const USAGE: &str = "usage: postroom explain [-c config_dir] [--json] [--sender ADDRESS] [--client ADDRESS] [--ask-services]
       ADDRESS...
Shows for each address every key that is looked up, in which table and with what result, the tree of
destinations, and the reply that RCPT gets. The client counts as a stranger unless --client names one.
With --ask-services, policy services (check_policy_service) are asked, which may have effects there.
Exit status: 0 when all addresses are accepted, 1 when one is refused, 75 when a table failed.
";

/// What the arguments ask for.
struct Request {
    config_dir: PathBuf,
    json: bool,
    sender: String,
    client: std::net::IpAddr,
    ask_services: bool,
    addresses: Vec<String>,
}

/// Runs the command with the arguments that follow its name.
pub fn run(args: &[OsString]) -> ExitCode {
    let request = match parse(args) {
        Ok(Some(request)) => request,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("postroom explain: {problem}\n{USAGE}");
            return ExitCode::from(EX_USAGE);
        }
    };
    tool_log::install("postroom", false);
    match explain_all(&request) {
        Ok(status) => ExitCode::from(status),
        Err(problem) => {
            eprintln!("postroom: fatal: {problem}");
            ExitCode::from(EX_CONFIG)
        }
    }
}

fn parse(args: &[OsString]) -> Result<Option<Request>, String> {
    let mut request = Request {
        config_dir: options::default_config_dir(),
        json: false,
        sender: "sender@elsewhere.invalid".into(),
        // Documentation addresses are nobody's clients (RFC 5737).
        client: std::net::IpAddr::from([192, 0, 2, 1]),
        ask_services: false,
        addresses: Vec::new(),
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let text = arg
            .to_str()
            .ok_or_else(|| format!("{arg:?} is not UTF-8"))?;
        let mut value = |what: &str| {
            let next = args.next().and_then(|value| value.to_str());
            next.map(str::to_owned)
                .ok_or_else(|| format!("{text} needs {what}"))
        };
        match text {
            "-c" => request.config_dir = PathBuf::from(value("a folder")?),
            "--ask-services" => request.ask_services = true,
            "--json" => request.json = true,
            "--sender" => request.sender = value("an address")?,
            "--client" => {
                let client = value("an IP address")?;
                request.client = client
                    .parse()
                    .map_err(|_| format!("{client}: not an IP address"))?;
            }
            "-h" | "--help" => return Ok(None),
            option if option.starts_with("--") => return Err(format!("unknown option {option}")),
            address => request.addresses.push(address.to_owned()),
        }
    }
    if request.addresses.is_empty() {
        return Err("no address given".into());
    }
    Ok(Some(request))
}

fn explain_all(request: &Request) -> Result<u8, String> {
    let environment = Environment::of_this_machine();
    let config = Config::load(&request.config_dir, &environment).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut explainer = policy::explain::Explainer::new(&config, &environment)
        .map_err(|error| error.to_string())?;
    if request.ask_services {
        explainer = explainer.asking_services();
    }
    let mut status = 0;
    let mut documents = Vec::new();
    for (index, address) in request.addresses.iter().enumerate() {
        let explained =
            runtime.block_on(explainer.explain(address, &request.sender, request.client));
        status = status.max(match explained.outcome() {
            policy::explain::Outcome::Accepted => 0,
            policy::explain::Outcome::Refused => 1,
            policy::explain::Outcome::Failed => EX_TEMPFAIL,
        });
        if request.json {
            documents.push(serde_json::to_value(&explained).map_err(|error| error.to_string())?);
        } else {
            if index > 0 {
                println!();
            }
            print!("{explained}");
        }
    }
    if request.json {
        let text = serde_json::to_string_pretty(&documents).map_err(|error| error.to_string())?;
        println!("{text}");
    }
    Ok(status)
}
