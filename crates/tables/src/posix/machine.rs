//! Runs a program over a text, depth first. Without back references a step that failed at a place fails there whatever
//! led to it, so each pair is tried once and the work is bounded; with them it is bounded by a count.

use super::parse::Assert;
use super::program::{Program, Step};
use super::{Groups, TooHard};

/// Steps that a match with back references may take: some milliseconds.
const MOST_WORK: usize = 1_000_000;

/// The end of the longest match that begins at `start`.
pub(super) fn longest(
    program: &Program,
    text: &[u8],
    start: usize,
) -> Result<Option<usize>, TooHard> {
    let mut end = None;
    Machine::new(program, text, start).run(start, |at, _| {
        end = end.max(Some(at));
        // No match is longer than the text.
        at == text.len()
    })?;
    Ok(end)
}

/// The groups of the first way to match from `start` to `end`.
pub(super) fn groups(
    program: &Program,
    text: &[u8],
    start: usize,
    end: usize,
) -> Result<Option<Groups>, TooHard> {
    let mut found = None;
    Machine::new(program, text, start).run(start, |at, slots| {
        if at != end {
            return false;
        }
        let groups = (0..=program.groups).map(|group| match group {
            0 => Some((start, end)),
            _ => slots[2 * group].zip(slots[2 * group + 1]),
        });
        found = Some(groups.collect());
        true
    })?;
    Ok(found)
}

struct Machine<'a> {
    program: &'a Program,
    text: &'a [u8],
    start: usize,
    slots: Vec<Option<usize>>,
    /// One bit for each step at each place, where a bit is enough.
    tried: Vec<u64>,
    work: usize,
}

enum Task {
    Go { step: usize, at: usize },
    Restore { slot: usize, value: Option<usize> },
}

impl<'a> Machine<'a> {
    fn new(program: &'a Program, text: &'a [u8], start: usize) -> Machine<'a> {
        let bits = match program.has_back_references {
            true => 0,
            false => program.steps.len() * (text.len() - start + 1),
        };
        Machine {
            program,
            text,
            start,
            slots: vec![None; program.slots],
            tried: vec![0; bits.div_ceil(64)],
            work: 0,
        }
    }

    /// Calls `arrived` at each match, in the order of preference, until it says that this is enough.
    fn run(
        &mut self,
        start: usize,
        mut arrived: impl FnMut(usize, &[Option<usize>]) -> bool,
    ) -> Result<(), TooHard> {
        let mut tasks = vec![Task::Go { step: 0, at: start }];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Restore { slot, value } => self.slots[slot] = value,
                Task::Go { step, at } => {
                    if let Some(end) = self.follow(step, at, &mut tasks)?
                        && arrived(end, &self.slots)
                    {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on until the path ends, in a match or without one.
    fn follow(
        &mut self,
        mut step: usize,
        mut at: usize,
        tasks: &mut Vec<Task>,
    ) -> Result<Option<usize>, TooHard> {
        loop {
            if self.seen(step, at)? {
                return Ok(None);
            }
            let fits = match &self.program.steps[step] {
                Step::Match => return Ok(Some(at)),
                Step::Jump(to) => {
                    step = *to;
                    continue;
                }
                Step::Split(first, second) => {
                    tasks.push(Task::Go { step: *second, at });
                    step = *first;
                    continue;
                }
                Step::Save(slot) => {
                    let value = self.slots[*slot];
                    tasks.push(Task::Restore { slot: *slot, value });
                    self.slots[*slot] = Some(at);
                    Some(0)
                }
                Step::Moved(slot) => (self.slots[*slot] != Some(at)).then_some(0),
                Step::Set(set) => {
                    let byte = self.text.get(at).copied();
                    byte.is_some_and(|byte| set[usize::from(byte)]).then_some(1)
                }
                Step::Assert(assert) => self.holds(*assert, at).then_some(0),
                Step::Back(number) => self.repeated(*number, at),
            };
            let Some(length) = fits else {
                return Ok(None);
            };
            at += length;
            step += 1;
        }
    }

    fn seen(&mut self, step: usize, at: usize) -> Result<bool, TooHard> {
        if self.program.has_back_references {
            self.work += 1;
            return match self.work > MOST_WORK {
                true => Err(TooHard),
                false => Ok(false),
            };
        }
        let bit = step * (self.text.len() - self.start + 1) + at - self.start;
        let (word, mask) = (bit / 64, 1 << (bit % 64));
        let seen = self.tried[word] & mask != 0;
        self.tried[word] |= mask;
        Ok(seen)
    }

    /// How much text a back reference takes here.
    fn repeated(&self, number: usize, at: usize) -> Option<usize> {
        let (from, to) = self.slots[2 * number].zip(self.slots[2 * number + 1])?;
        let group = self.text.get(from..to)?;
        let here = self.text.get(at..at + group.len())?;
        let same = match self.program.ignore_case {
            true => here.eq_ignore_ascii_case(group),
            false => here == group,
        };
        same.then_some(group.len())
    }

    fn holds(&self, assert: Assert, at: usize) -> bool {
        let is_word = |byte: Option<&u8>| {
            byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        let before = at.checked_sub(1).and_then(|at| self.text.get(at));
        let after = self.text.get(at);
        let (left, right) = (is_word(before), is_word(after));
        let newline = |byte: Option<&u8>| self.program.lines && byte == Some(&b'\n');
        match assert {
            Assert::LineStart => at == 0 || newline(before),
            Assert::LineEnd => after.is_none() || newline(after),
            Assert::BufferStart => at == 0,
            Assert::BufferEnd => after.is_none(),
            Assert::WordStart => !left && right,
            Assert::WordEnd => left && !right,
            Assert::WordEdge => left != right,
            Assert::NoWordEdge => left == right,
        }
    }
}
