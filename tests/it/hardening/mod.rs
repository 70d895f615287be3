//! Real failures of tar readers, image tools and content stores, each as a case of its own: what is crafted, the error
//! that it must give, and a store and a canary tree that must not change.
//!
//! | module | holds |
//! |---|---|
//! | [`outer_tar`] | the tar around a layout |
//! | [`layer_tar`] | the tar inside a layer, sparse maps |
//! | [`paths`] | paths of a file table, and what stands at a destination |
//! | [`bombs`] | little that becomes much: memory, time, disk |
//! | [`poisoned`] | a store whose files are not what their names and sizes say |
//! | [`other_readers`] | GNU tar and Python see what we place |
//! | [`oci`] | documents of a layout: digests, sizes, names that lie |

mod bombs;
pub mod craft;
mod layer_tar;
mod oci;
mod other_readers;
mod outer_tar;
mod paths;
mod poisoned;
pub mod tar;
