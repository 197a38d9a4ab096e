//! The servers and files of the bench, and the ways by which keys reach them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use testkit::{MailServer, MariaDb, MariaDbOptions, Postfix, Site, TableServer, TempDir};

use super::Sample;
use crate::process_group;

/// Half of them are known.
const KEYS: usize = 20_000;

/// Who looks up, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Postfix,
    Postroom,
    PostfixSqlite,
    PostroomSqlite,
    /// Postfix's client, and proxymap in front of MariaDB.
    Proxymap,
    /// Postfix's client, and our table server in front of MariaDB.
    Socketmap,
    SocketmapCached,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Postfix | Way::PostfixSqlite => "postmap of Postfix",
            Way::Postroom | Way::PostroomSqlite => "postmap of Postroom",
            Way::Proxymap => "proxy:mysql:",
            Way::Socketmap => "socketmap:, no cache",
            Way::SocketmapCached => "socketmap:, cache",
        }
    }
}

pub struct Scenario {
    pub name: &'static str,
    pub processes: usize,
    pub ways: &'static [Way],
}

const fn scenario(name: &'static str, processes: usize, ways: &'static [Way]) -> Scenario {
    Scenario {
        name,
        processes,
        ways,
    }
}

const THROUGH: &[Way] = &[Way::Proxymap, Way::Socketmap, Way::SocketmapCached];

pub const SCENARIOS: &[Scenario] = &[
    scenario("mysql, 1 process", 1, &[Way::Postfix, Way::Postroom]),
    scenario("mysql, 8 processes", 8, &[Way::Postfix, Way::Postroom]),
    scenario(
        "sqlite, 1 process",
        1,
        &[Way::PostfixSqlite, Way::PostroomSqlite],
    ),
    scenario("a Postfix, 1 client", 1, THROUGH),
    scenario("a Postfix, 8 clients", 8, THROUGH),
];

pub struct Rig {
    mariadb: MariaDb,
    binary: PathBuf,
    folder: TempDir,
    /// With a proxymap for the table.
    postfix: MailServer,
    plain: Served,
    cached: Served,
}

/// A table server and its site.
struct Served {
    server: TableServer,
    site: Site,
}

impl Served {
    fn start(binary: &Path, table_file: &str, more: &str) -> Served {
        let main_cf = format!("virtual_mailbox_maps = mysql:@CONF@/users.cf\n{more}");
        let site = Site::new(&main_cf, "", &[("users.cf", table_file)]);
        let listen = format!("unix:{}", Served::socket(&site).display());
        let server = TableServer::start(binary, &site, &["--listen", &listen]);
        Served { server, site }
    }

    fn socket(site: &Site) -> PathBuf {
        site.dir().join("tables")
    }

    fn table(&self) -> String {
        format!(
            "socketmap:unix:{}:users.cf",
            Served::socket(&self.site).display()
        )
    }
}

impl Rig {
    pub fn start(binary: PathBuf) -> Rig {
        let mariadb = MariaDb::with(MariaDbOptions {
            max_connections: 500,
            ..Default::default()
        });
        mariadb.create_db("mail");
        mariadb.create_user("reader", "pw", "mail");
        let sql = rows();
        mariadb.run_sql("mail", &sql);
        let table_file = format!(
            "hosts = {}\nuser = reader\npassword = pw\ndbname = mail\nquery = {QUERY}\n",
            mariadb.host()
        );
        let folder = TempDir::new();
        folder.write("conf/main.cf", "compatibility_level = 3.6\n");
        folder.write("users.cf", &table_file);
        testkit::sqlite(&folder.join("mail.sqlite"), &sql);
        let file = folder.join("mail.sqlite");
        let text = format!("dbpath = {}\nquery = {QUERY}\n", file.display());
        folder.write("sqlite.cf", text);
        folder.write("keys", keys().concat());
        let proxied = Site::new(
            "proxy_read_maps = proxy:mysql:@CONF@/users.cf\n",
            "",
            &[("users.cf", &table_file)],
        );
        let long = "postroom_table_cache_ttl = 1h\npostroom_table_cache_negative_ttl = 1h\n";
        Rig {
            postfix: Postfix::on(proxied),
            plain: Served::start(&binary, &table_file, ""),
            cached: Served::start(&binary, &table_file, long),
            mariadb,
            binary,
            folder,
        }
    }

    /// Each process asks for all keys.
    pub fn measure(&self, way: Way, scenario: &Scenario) -> Sample {
        let before = self.meters(way);
        let begin = Instant::now();
        let found = self.ask(way, scenario.processes);
        let seconds = begin.elapsed().as_secs_f64();
        let after = self.meters(way);
        let keys = (KEYS * scenario.processes) as f64;
        let each = |index: usize| (after[index] - before[index]) / keys * 1e6;
        Sample {
            rate: keys / seconds,
            cpu: each(0),
            mariadb: each(1),
            wrong: (KEYS * scenario.processes / 2).abs_diff(found) as f64,
        }
    }

    /// Lookups so far and the table server's memory in megabytes, up to `lookups`.
    pub fn memory(&self, lookups: usize) -> Vec<(usize, f64)> {
        const PROCESSES: usize = 5;
        let pid = self.cached.server.pid().expect("it was started");
        let now = || process_group::memory(pid).pss as f64 / 1e6;
        let mut seen = vec![(0, now())];
        let mut done = 0;
        while done < lookups {
            self.ask(Way::SocketmapCached, PROCESSES);
            done += PROCESSES * KEYS;
            seen.push((done, now()));
        }
        seen
    }

    /// Runs the processes; how many keys were found.
    fn ask(&self, way: Way, processes: usize) -> usize {
        let run = |mut command: Command| {
            std::thread::spawn(move || {
                let output = command.output().expect("postmap runs");
                output.stdout.iter().filter(|byte| **byte == b'\n').count()
            })
        };
        let threads: Vec<_> = (0..processes).map(|_| run(self.postmap(way))).collect();
        let found = threads.into_iter().map(|thread| thread.join().unwrap_or(0));
        found.sum()
    }

    fn postmap(&self, way: Way) -> Command {
        let table_file =
            |kind: &str, name: &str| format!("{kind}:{}", self.folder.join(name).display());
        let (ours, table) = match way {
            Way::Postfix => (false, table_file("mysql", "users.cf")),
            Way::Postroom => (true, table_file("mysql", "users.cf")),
            Way::PostfixSqlite => (false, table_file("sqlite", "sqlite.cf")),
            Way::PostroomSqlite => (true, table_file("sqlite", "sqlite.cf")),
            Way::Proxymap => (
                false,
                self.postfix.site.expand("proxy:mysql:@CONF@/users.cf"),
            ),
            Way::Socketmap => (false, self.plain.table()),
            Way::SocketmapCached => (false, self.cached.table()),
        };
        let mut command = match ours {
            true => Command::new(&self.binary),
            false => Command::new(testkit::require("postmap")),
        };
        if ours {
            command.arg("postmap");
        }
        let conf = match way {
            Way::Proxymap => self.postfix.site.conf(),
            _ => self.folder.join("conf"),
        };
        let keys = std::fs::File::open(self.folder.join("keys")).expect("it was written");
        command.arg("-c").arg(conf).args(["-q", "-", &table]);
        command
            .stdin(keys)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command
    }

    /// CPU seconds: our children that have ended and what stands between them and the database; MariaDB.
    fn meters(&self, way: Way) -> [f64; 2] {
        let of = |pid: Option<u32>| pid.map_or(0.0, process_group::cpu_seconds);
        let between = match way {
            Way::Proxymap => of(self.postfix.pid()),
            Way::Socketmap => of(self.plain.server.pid()),
            Way::SocketmapCached => of(self.cached.server.pid()),
            _ => 0.0,
        };
        [children_seconds() + between, of(self.mariadb.pid())]
    }
}

/// User and system time of the children that were waited for.
fn children_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return 0.0;
    };
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .sum()
}

const QUERY: &str = "SELECT destination FROM virtual_aliases WHERE source = '%s'";

fn rows() -> String {
    let rows: Vec<String> = (0..KEYS / 2)
        .map(|n| format!("('user{n}@example.org', 'box{n}@example.net')"))
        .collect();
    format!(
        "CREATE TABLE virtual_aliases (source VARCHAR(100) PRIMARY KEY, destination VARCHAR(100)); \
         INSERT INTO virtual_aliases VALUES {};",
        rows.join(", ")
    )
}

/// All keys, known and unknown mixed.
fn keys() -> Vec<String> {
    // 7919 is prime to their number, so that each comes once.
    let mixed = (0..KEYS).map(|n| n * 7919 % KEYS);
    mixed.map(|n| format!("user{n}@example.org\n")).collect()
}
