//! What the fuzz targets share: the independent parser, the model executor and the fixtures of the tests as they are, and
//! what makes histories, directories and damage of an input.

#[path = "../../tests/model/mod.rs"]
pub mod executor;
#[path = "../../tests/fixture/mod.rs"]
pub mod fixture;
#[path = "../../tests/reference/mod.rs"]
pub mod reference;

pub mod bounds;
pub mod damage;
pub mod directory;
pub mod history;
pub mod judge;
pub mod place;
pub mod steps;
