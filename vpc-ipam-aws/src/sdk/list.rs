//! Lists that come page by page, as long as a list may be.

use crate::Ec2Error;

/// The most pages of one list. EC2 may send pages that are not full, or empty; the ENIs of an instance fit on one.
const PAGES_MAX: usize = 50;

/// The most ENIs of a list, and their addresses and prefixes, and the most subnets: ten times what the largest instance
/// holds.
const ITEMS_MAX: usize = 50_000;

/// A list of bounded length that comes page by page.
pub(super) struct List<T> {
    operation: &'static str,
    pub(super) all: Vec<T>,
    /// What counts of the list's bound.
    size: usize,
    pages: usize,
    /// By which the next page is asked for.
    pub(super) next: Option<String>,
}

impl<T> List<T> {
    pub(super) fn new(operation: &'static str) -> Self {
        Self { operation, all: Vec::new(), size: 0, pages: 0, next: None }
    }

    pub(super) fn push(&mut self, item: T, size: usize) -> Result<(), Ec2Error> {
        self.size += size;
        if self.size > ITEMS_MAX {
            let message = format!("the list has more than the {ITEMS_MAX} items that are read");
            return Err(Ec2Error::unanswered(self.operation, message));
        }
        self.all.push(item);
        Ok(())
    }

    /// Takes note of the end of a page, and returns whether it is that of the list.
    pub(super) fn ends(&mut self, next: Option<&str>) -> Result<bool, Ec2Error> {
        self.pages += 1;
        self.next = next.filter(|next| !next.is_empty()).map(str::to_owned);
        if self.next.is_some() && self.pages == PAGES_MAX {
            let message = format!("the list has more than the {PAGES_MAX} pages that are read");
            return Err(Ec2Error::unanswered(self.operation, message));
        }
        Ok(self.next.is_none())
    }
}
