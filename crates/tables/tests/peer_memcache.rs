//! `memcache:` tables against a real memcached, with a table behind them.

use config::Config;
use postroom_tables::Tables;
use testkit::{Memcached, TempDir};

#[tokio::test]
async fn the_backup_fills_the_cache_and_stands_in_for_it() {
    if !testkit::peers() {
        return;
    }
    let mut memcached = Memcached::start();
    let dir = TempDir::new();
    let file = dir.path().join("m.cf");
    let settings = format!(
        "memcache = inet:127.0.0.1:{}\nbackup = inline:{{joe=from-backup}}\nkey_format = t:%s\nttl = 60\n",
        memcached.port
    );
    std::fs::write(&file, settings).expect("a file");
    let tables = Tables::new(&Config::from_text("", "").expect("a configuration"));
    let spec = format!("memcache:{}", file.display());
    let table = tables.open(&spec).expect("a table");
    let ask = async |key: &str| table.lookup(key).await.expect("an answer");

    // From the backup, and then it is in the cache under the formatted key.
    assert_eq!(ask("joe").await.as_deref(), Some("from-backup"));
    assert_eq!(memcached.get("t:joe").as_deref(), Some("from-backup"));
    // The cache comes first.
    memcached.set("t:joe", b"from-cache");
    assert_eq!(ask("Joe").await.as_deref(), Some("from-cache"));
    // What neither has is remembered by none.
    assert_eq!(ask("nobody").await, None);
    assert_eq!(memcached.get("t:nobody"), None);
    // A dead cache costs nothing but time; one that is back is filled again.
    memcached.kill();
    assert_eq!(ask("joe").await.as_deref(), Some("from-backup"));
    memcached.start_again();
    assert_eq!(ask("joe").await.as_deref(), Some("from-backup"));
    assert_eq!(memcached.get("t:joe").as_deref(), Some("from-backup"));
    assert_eq!(tables.files(), [file]);
}
