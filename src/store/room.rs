//! Room: what a store takes of its disk, and what it lets go of.

/// What one step of letting go did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Executions that are gone, with all that belonged to them.
    pub executions: u64,
    /// Where the next step goes on; `None` when this one came to the end.
    pub next: Option<i64>,
}

/// How much room the store takes, in bytes; its log is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What holds something.
    pub held: u64,
    /// What is the store's, and holds nothing now.
    pub free: u64,
    /// The whole file system.
    pub disk: u64,
}
