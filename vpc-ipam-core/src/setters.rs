//! Setters of inputs, so that a field can be added to them without breaking who makes one.

/// Gives a struct a method `with_FIELD` for each field that is named, which takes and returns the struct.
macro_rules! setters {
    ($type:ident { $($with:ident $field:ident: $of:ty,)* }) => {
        impl $type {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $with(mut self, $field: $of) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}
