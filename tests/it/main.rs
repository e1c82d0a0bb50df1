//! The black-box tests.

mod layers;
