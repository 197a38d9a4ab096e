//! From the tree of a pattern to a program for the machine.

use super::Flags;
use super::parse::{Assert, Node, Set, TOO_BIG, Tree};

/// One instruction. Numbers of instructions are places in [`Program::steps`].
#[derive(Debug)]
pub(super) enum Step {
    Set(Box<Set>),
    Assert(Assert),
    Back(usize),
    /// Writes the position to a slot.
    Save(usize),
    /// Goes on only when the position differs from the one in the slot: a repetition that takes nothing ends.
    Moved(usize),
    /// Tries the first, then the second.
    Split(usize, usize),
    Jump(usize),
    Match,
}

/// A program and what it needs to run.
#[derive(Debug)]
pub(super) struct Program {
    pub steps: Vec<Step>,
    pub groups: usize,
    /// Two for the match and each group, then one for each repetition.
    pub slots: usize,
    pub has_back_references: bool,
    pub ignore_case: bool,
    pub lines: bool,
}

/// More steps than any sane pattern has; `((a{1000}){1000}){1000}` would fill the memory.
const MOST_STEPS: usize = 50_000;

impl Program {
    pub fn new(tree: &Tree, flags: Flags) -> Result<Program, &'static str> {
        let mut program = Program {
            steps: Vec::new(),
            groups: tree.groups,
            slots: 2 * (tree.groups + 1),
            has_back_references: tree.has_back_references,
            ignore_case: flags.ignore_case,
            lines: flags.lines,
        };
        program.emit(&tree.node)?;
        program.push(Step::Match)?;
        Ok(program)
    }

    fn push(&mut self, step: Step) -> Result<usize, &'static str> {
        if self.steps.len() >= MOST_STEPS {
            return Err(TOO_BIG);
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    fn emit(&mut self, node: &Node) -> Result<(), &'static str> {
        match node {
            Node::Empty => {}
            Node::Set(set) => {
                self.push(Step::Set(set.clone()))?;
            }
            Node::Assert(assert) => {
                self.push(Step::Assert(*assert))?;
            }
            Node::Back(number) => {
                self.push(Step::Back(*number))?;
            }
            Node::Group(number, inner) => {
                self.push(Step::Save(2 * number))?;
                self.emit(inner)?;
                self.push(Step::Save(2 * number + 1))?;
            }
            Node::Cat(nodes) => {
                for node in nodes {
                    self.emit(node)?;
                }
            }
            Node::Alt(nodes) => self.alternatives(nodes)?,
            Node::Repeat { node, min, max } => self.repeat(node, *min, *max)?,
        }
        Ok(())
    }

    fn alternatives(&mut self, nodes: &[Node]) -> Result<(), &'static str> {
        let mut jumps = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            if number + 1 == nodes.len() {
                self.emit(node)?;
                break;
            }
            let split = self.push(Step::Split(0, 0))?;
            self.emit(node)?;
            let jump = self.push(Step::Jump(0))?;
            self.steps[split] = Step::Split(split + 1, jump + 1);
            jumps.push(jump);
        }
        for jump in jumps {
            self.steps[jump] = Step::Jump(self.steps.len());
        }
        Ok(())
    }

    fn repeat(&mut self, node: &Node, min: usize, max: Option<usize>) -> Result<(), &'static str> {
        for _ in 0..min {
            self.emit(node)?;
        }
        let Some(max) = max else {
            return self.star(node);
        };
        let mut splits = Vec::new();
        for _ in min..max {
            splits.push(self.push(Step::Split(0, 0))?);
            self.emit(node)?;
        }
        let end = self.steps.len();
        for split in splits {
            self.steps[split] = Step::Split(split + 1, end);
        }
        Ok(())
    }

    fn star(&mut self, node: &Node) -> Result<(), &'static str> {
        let slot = self.slots;
        self.slots += 1;
        let split = self.push(Step::Split(0, 0))?;
        self.push(Step::Save(slot))?;
        self.emit(node)?;
        self.push(Step::Moved(slot))?;
        let jump = self.push(Step::Jump(split))?;
        self.steps[split] = Step::Split(split + 1, jump + 1);
        Ok(())
    }
}
