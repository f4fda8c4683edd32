//! Taking in settings that were read again.

use vpc_ipam_core::{EniConfig, Timestamp, UnusableConfigError};

use super::Loop;
use crate::reload::{Reload, Reloaded};

impl Loop {
    /// Takes in other settings, or leaves those in force where they cannot be used.
    pub(super) fn on_reload(&mut self, reload: Reload, now: Timestamp) {
        let Reload { config, overrides, labels, done } = reload;
        let node = self.ipam.node();
        let mut config = config.for_node(&overrides, node, &labels);
        let eni_config = EniConfig::for_node(&overrides, node, &labels);
        // The networks of pods that run are of these.
        let families = self.ipam.config().families;
        let families_kept = config.families != families;
        config.families = families;
        // The program may be ending.
        let _ =
            done.send(self.take_in(config, eni_config, now).map(|()| Reloaded { families_kept }));
    }

    fn take_in(
        &mut self,
        config: vpc_ipam_core::Config,
        eni_config: Option<EniConfig>,
        now: Timestamp,
    ) -> Result<(), UnusableConfigError> {
        if config != *self.ipam.config() {
            let cooldown = config.cooldown;
            self.ipam.handle_config(config, now)?;
            self.flush.set_cooldown(cooldown);
        }
        if eni_config != self.ipam.conditions().eni_config {
            self.ipam.handle_eni_config(eni_config, now);
        }
        Ok(())
    }
}
