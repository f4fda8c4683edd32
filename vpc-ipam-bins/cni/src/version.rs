use core::fmt;

/// A version of the specification, and so of the form of configuration and result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0, which added CHECK and `prevResult` on DEL.
    V0_4_0,
    /// 1.0.0, which dropped the address family from results.
    V1_0_0,
    /// 1.1.0, which added GC, STATUS and the MTU in results.
    #[default]
    V1_1_0,
}

impl CniVersion {
    /// The versions that are understood, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// Returns the version as the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
