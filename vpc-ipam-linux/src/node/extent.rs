//! How much of a node is compared.

/// How much of a node is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Links, addresses, routes and rules, which netlink lists in one go, and the kernel variables of the node itself.
    Routing,
    /// All that the kernel lists itself: besides, the kernel variables of ENIs and pods.
    Kernel,
    /// Address translation, which other programs have to list.
    Translation,
    /// What the kernel lists itself, and address translation.
    All,
}

impl Extent {
    /// Returns what takes in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (same, other) if same == other => same,
            (Self::Routing | Self::Kernel, Self::Routing | Self::Kernel) => Self::Kernel,
            _ => Self::All,
        }
    }

    /// Returns what of it the kernel lists itself.
    pub fn of_kernel(self) -> Option<Self> {
        match self {
            Self::Routing | Self::Kernel => Some(self),
            Self::All => Some(Self::Kernel),
            Self::Translation => None,
        }
    }

    /// Returns whether it takes in address translation.
    pub fn has_translation(self) -> bool {
        matches!(self, Self::Translation | Self::All)
    }

    /// Returns whether it takes in what netlink lists.
    pub(super) fn has_routing(self) -> bool {
        self != Self::Translation
    }

    /// Returns whether it takes in the variables of every link.
    pub(super) fn has_all_variables(self) -> bool {
        matches!(self, Self::Kernel | Self::All)
    }
}
