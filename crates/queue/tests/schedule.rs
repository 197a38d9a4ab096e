//! Properties of the schedule over many pseudo-random histories.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postroom_queue::{QueueId, Schedule, ScheduleSettings};

/// Marsaglia's xorshift: the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn nothing_is_early_late_or_lost() {
    for seed in 1..200 {
        let mut numbers = Numbers(seed * 0x9E37_79B9);
        let mut schedule = Schedule::new();
        let mut model: BTreeMap<QueueId, SystemTime> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..200 {
            let id: QueueId = format!("{:012X}", numbers.below(20)).parse().unwrap();
            match numbers.below(6) {
                0..=2 => {
                    let time = at(now + numbers.below(50));
                    schedule.insert(id, time);
                    model.insert(id, time);
                }
                3 => assert_eq!(schedule.remove(id), model.remove(&id).is_some()),
                4 => {
                    assert_eq!(schedule.flush_one(id, at(now)), model.contains_key(&id));
                    model
                        .entry(id)
                        .and_modify(|time| *time = (*time).min(at(now)));
                }
                _ => {
                    now += numbers.below(30);
                    let most = 1 + numbers.below(5) as usize;
                    let due = schedule.due(at(now), most);
                    let ready = model.values().filter(|time| **time <= at(now)).count();
                    assert_eq!(due.len(), ready.min(most));
                    for id in due {
                        assert!(model.remove(&id).unwrap() <= at(now));
                    }
                }
            }
            assert_eq!(schedule.len(), model.len());
            assert_eq!(schedule.next_wakeup(), model.values().min().copied());
        }
        assert_eq!(schedule.flush(at(now)), model.len());
        assert_eq!(schedule.due(at(now), usize::MAX).len(), model.len());
        assert!(schedule.is_empty());
    }
}

#[test]
fn the_pause_grows_with_age() {
    let settings = ScheduleSettings::default();
    // (age in seconds, seconds until the next attempt)
    let cases = [
        (0, 300),
        (299, 300),
        (600, 600),
        (1200, 1200),
        (3999, 3999),
        (86_400, 4000),
    ];
    for (age, pause) in cases {
        let next = settings.next_attempt(at(1000), at(1000 + age));
        assert_eq!(next, at(1000 + age + pause), "{age}");
    }
    // A clock that stepped back.
    assert_eq!(settings.next_attempt(at(1000), at(10)), at(310));
}

#[test]
fn lifetimes_end() {
    let settings = ScheduleSettings {
        bounce_lifetime: Duration::from_secs(60),
        delay_warning: Some(Duration::from_secs(30)),
        ..ScheduleSettings::default()
    };
    let day = 24 * 3600;
    assert!(!settings.is_expired(at(0), false, at(5 * day - 1)));
    assert!(settings.is_expired(at(0), false, at(5 * day)));
    assert!(settings.is_expired(at(0), true, at(60)));
    assert!(!settings.warns_of_delay(at(0), at(29)));
    assert!(settings.warns_of_delay(at(0), at(30)));
}
