//! A part of a bucket as a bucket of its own.
//!
//! Why: object_store 0.13's `PrefixStore` gives back the full path in the metadata of a `get` or
//! `head`, so that a reader which goes on from there asks for `prefix/prefix/object`. Here every
//! path that comes out is one that can go in. It adds nothing else.

use std::fmt;
use std::sync::Arc;

use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetResult, ObjectStore};

use super::Store;
use super::layer::{Layer, Layered};

#[derive(Debug)]
struct Prefixed {
    inner: PrefixStore<Store>,
}

/// The objects of `store` whose path begins with a prefix.
pub(crate) fn prefixed(store: Store, prefix: Path) -> Store {
    Arc::new(Layered(Prefixed { inner: PrefixStore::new(store, prefix) }))
}

impl fmt::Display for Prefixed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait::async_trait]
impl Layer for Prefixed {
    fn inner(&self) -> &dyn ObjectStore {
        &self.inner
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let mut found = self.inner.get_opts(at, options).await?;
        found.meta.location = at.clone();
        Ok(found)
    }
}
