//! `sqlite:` tables against a database made for the test: templates, filters, limits, quoting.

use config::Config;
use postroom_tables::{self as tables, ErrorKind, Tables};

struct Fixture {
    dir: tempfile::TempDir,
    tables: Tables,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().expect("temporary folder");
        let db = rusqlite::Connection::open(dir.path().join("test.db")).expect("database");
        db.execute_batch(
            "CREATE TABLE t (k TEXT, v); INSERT INTO t VALUES
             ('plain', 'value'), ('multi', 'a'), ('multi', 'b'), ('null', NULL), ('empty', ''),
             ('o''brien@example.org', 'quoted'), ('john@example.org', 'j'), ('number', 42), ('real', 1.5),
             ('back\\slash', 'bs'), ('straße', 'long'), ('strasse', 'folded'), ('bytes', CAST(X'61FF' AS TEXT));",
        )
        .expect("fixture");
        let tables = Tables::new(&Config::from_text("", "").expect("an empty configuration"));
        Fixture { dir, tables }
    }

    /// A table with the settings, each on its own line.
    fn table(&self, name: &str, settings: &str) -> Result<tables::Table, tables::TableError> {
        let file = self.dir.path().join(name);
        let text = format!(
            "dbpath = {}\n{settings}\n",
            self.dir.path().join("test.db").display()
        );
        std::fs::write(&file, text).expect("table file");
        self.tables.open(&format!("sqlite:{}", file.display()))
    }
}

#[tokio::test]
async fn answers() {
    let fixture = Fixture::new();
    let query = "query = SELECT v FROM t WHERE k = '%s'";
    for (number, (settings, key, expected)) in [
        (query, "plain", Some("value")),
        (query, "PLAIN", Some("value")),
        (query, "multi", Some("a,b")),
        (query, "none", None),
        (query, "null", None),
        (query, "empty", None),
        (query, "", None),
        (query, "number", Some("42")),
        (query, "real", Some("1.5")),
        (query, "o'brien@example.org", Some("quoted")),
        (query, "back\\slash", Some("bs")),
        (query, "' OR '1'='1", None),
        (query, "Straße", Some("folded")),
        (
            "query = SELECT v FROM t WHERE k = '%u@%d'",
            "john@example.org",
            Some("j"),
        ),
        ("query = SELECT v FROM t WHERE k = '%u@%d'", "plain", None),
        (
            "query = SELECT '%2' || v FROM t WHERE k = '%s'",
            "john@example.org",
            Some("examplej"),
        ),
        (
            "query = SELECT v FROM t WHERE k = '%s'\nresult_format = <%s>%%",
            "multi",
            Some("<a>%,<b>%"),
        ),
        (
            "query = SELECT v FROM t WHERE k = '%s'\ndomain = example.org",
            "john@example.org",
            Some("j"),
        ),
        (
            "query = SELECT v FROM t WHERE k = '%s'\ndomain = example.net",
            "john@example.org",
            None,
        ),
        (
            "query = SELECT v FROM t WHERE k = '%s'\ndomain = inline:{example.org=x}",
            "plain",
            None,
        ),
        (
            "table = t\nselect_field = v\nwhere_field = k",
            "plain",
            Some("value"),
        ),
        ("query = SELECT '%s'; SELECT 'second'", "key", Some("key")),
        ("query = SELECT \"%s\" FROM t LIMIT 1", "k", Some("plain")),
    ]
    .into_iter()
    .enumerate()
    {
        let table = fixture
            .table(&format!("{number}.cf"), settings)
            .expect("table");
        // Twice: the second lookup uses the statement that the first one prepared.
        for _ in 0..2 {
            let found = table.lookup(key).await.expect("no failure");
            assert_eq!(found.as_deref(), expected, "{settings} with {key:?}");
        }
    }
}

#[tokio::test]
async fn failures_are_not_misses() {
    let fixture = Fixture::new();
    for (number, (settings, key)) in [
        ("query = SELECT v FROM nosuch WHERE k = '%s'", "x"),
        (
            "query = SELECT v FROM t WHERE k = '%s'\nexpansion_limit = 1",
            "multi",
        ),
        ("query = SELECT abs(-9223372036854775808) || '%s'", "x"),
        (
            "query = SELECT v FROM t WHERE k = '%s'\ndomain = fail:down",
            "a@b",
        ),
        ("query = SELECT v FROM t WHERE k = '%s'", "bytes"),
        ("dbpath = /nonesuch/db\nquery = SELECT 1", "x"),
    ]
    .into_iter()
    .enumerate()
    {
        let table = fixture
            .table(&format!("{number}.cf"), settings)
            .expect("table");
        assert!(table.lookup(key).await.is_err(), "{settings}");
    }
}

#[test]
fn mistakes_are_found_when_the_table_is_opened() {
    let fixture = Fixture::new();
    for (number, (settings, message)) in [
        ("query = SELECT '%x'", "Invalid query template"),
        (
            "query = SELECT 1\nresult_format = %q",
            "Invalid result template",
        ),
        (
            "query = SELECT 1\nexpansion_limit = many",
            "bad numerical configuration: expansion_limit = many",
        ),
        (
            "dbpath =\nquery = SELECT 1",
            "bad string length 0 < 1: dbpath = ",
        ),
        ("select_field = v", "bad string length 0 < 1: table = "),
        (
            "query = SELECT 1\ndomain = /nonesuch",
            "open file /nonesuch: No such file or directory",
        ),
        (
            "query = SELECT 1\ndomain = nosuch:x",
            "unsupported dictionary type: nosuch",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let error = fixture
            .table(&format!("{number}.cf"), settings)
            .expect_err("a mistake");
        assert!(error.to_string().contains(message), "{error}");
        assert_eq!(error.kind(), ErrorKind::Operator);
    }
}

#[tokio::test]
async fn parameters_in_main_cf() {
    let fixture = Fixture::new();
    let main_cf = format!(
        "m_dbpath = {}\nm_what = t\nm_query = SELECT v FROM $m_what WHERE k = '%s'\n",
        fixture.dir.path().join("test.db").display()
    );
    let tables = Tables::new(&Config::from_text(&main_cf, "").expect("main.cf"));
    let table = tables.open("sqlite:m").expect("table");
    assert_eq!(
        table.lookup("plain").await.expect("found").as_deref(),
        Some("value")
    );
}

#[tokio::test]
async fn lists_and_proxies() {
    let main_cf = "proxy_read_maps = proxy:static:x\n";
    let tables = Tables::new(&Config::from_text(main_cf, "").expect("main.cf"));
    let list = tables
        .open_list("inline:{a=1}, inline:{a=2, b=3}")
        .expect("list");
    for (key, value) in [("a", Some("1")), ("b", Some("3")), ("c", None)] {
        assert_eq!(
            list.lookup(key).await.expect("no failure").as_deref(),
            value
        );
    }
    assert!(tables.open_list("inline:{a=1} nosuch:x").is_err());
    let lenient = tables.open_list_lenient("inline:{a=1} nosuch:x");
    assert_eq!(
        lenient.lookup("a").await.expect("first table").as_deref(),
        Some("1")
    );
    assert!(lenient.lookup("b").await.is_err());
    assert_eq!(
        tables
            .open("proxy:static:x")
            .expect("allowed")
            .lookup("k")
            .await
            .expect("found")
            .as_deref(),
        Some("x")
    );
    assert!(tables.open("proxy:static:y").is_err());
    for (spec, key, value) in [
        (
            "unionmap:{static:one, inline:{k=two}}",
            "k",
            Some("one,two"),
        ),
        ("pipemap:{inline:{a=b}, inline:{b=c}}", "a", Some("c")),
        ("pipemap:{inline:{a=b}, inline:{b=c}}", "b", None),
    ] {
        let found = tables
            .open(spec)
            .expect("table")
            .lookup(key)
            .await
            .expect("no failure");
        assert_eq!(found.as_deref(), value, "{spec}");
    }
}

#[tokio::test]
async fn many_keys_at_once_get_the_answers_of_single_lookups() {
    let mut fixture = Fixture::new();
    fixture.tables = Tables::without_cache(&Config::from_text("", "").expect("main.cf"));
    let keys = [
        "plain",
        "PLAIN",
        "multi",
        "none",
        "null",
        "",
        "number",
        "real",
        "o'brien@example.org",
        "back\\slash",
        "' OR '1'='1",
        "Straße",
        "john@example.org",
        "@example.org",
    ];
    let bytes = keys.map(|key| key.as_bytes().to_vec());
    for (number, query) in [
        "SELECT v FROM t WHERE k = '%s'",
        "SELECT v FROM t WHERE k = '%u@%d'",
        // Not bound.
        "SELECT v FROM t WHERE k = \"%s\"",
    ]
    .iter()
    .enumerate()
    {
        let table = fixture
            .table(&format!("{number}.cf"), &format!("query = {query}"))
            .expect("a table");
        let together = table.lookup_together(&bytes).await.expect("it can");
        for (key, answer) in keys.iter().zip(&together) {
            assert_eq!(*answer, table.lookup(key).await, "{key:?} {query}");
        }
        let failed = together.iter().position(Result::is_err);
        assert_eq!(together.len(), failed.map_or(keys.len(), |at| at + 1));
    }
    // A value that is not text ends the run, and the file is not left locked.
    let table = fixture
        .table("last.cf", "query = SELECT v FROM t WHERE k = '%s'")
        .expect("a table");
    let keys = ["plain", "bytes", "plain"].map(|key| key.as_bytes().to_vec());
    let answers = table.lookup_together(&keys).await.expect("it can");
    assert!(answers.len() == 2 && answers[1].is_err(), "{answers:?}");
    let db = rusqlite::Connection::open(fixture.dir.path().join("test.db")).expect("database");
    db.execute("UPDATE t SET v = 'new' WHERE k = 'plain'", [])
        .expect("a writer gets in");
    let answers = table.lookup_together(&keys[..1]).await.expect("it can");
    assert_eq!(answers, [Ok(Some("new".to_string()))]);
}
