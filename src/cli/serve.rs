//! `serve`: the daemon, until it is asked to stop.

use super::reach::Context;
use super::{Failure, block_on_all_cores};
use crate::app;

pub(super) fn run(context: &Context<'_>) -> Result<(), Failure> {
    block_on_all_cores(async { Ok(app::serve(context.file(), context.env).await?) })
}
