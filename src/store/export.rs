//! Export: where what is let go of is written before it goes.

use std::io::{self, Write};

/// Takes lines of JSON. Whoever has it owns what is kept from then on.
pub trait Export: Send + Sync {
    /// Has `fill` write whole lines, and returns when all of them are on stable storage. What a call that fails has written
    /// may stand there all the same, and is written again by a later one.
    fn take(&self, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()>;
}
