//! How the host delivers interrupts of devices. Without remapping, a device could write any
//! interrupt message to the processors, so the kernel gives none to a guest.

use super::Host;

/// What is known about interrupt remapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remapping {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// It is off, and the operator has told VFIO not to mind.
    OffButAllowed,
    /// The kernel does not say.
    Unknown,
}

impl Host {
    /// Whether interrupts of devices are remapped: the kernel then names the controllers
    /// of its interrupts IR-IO-APIC, IR-PCI-MSI and so on.
    pub fn interrupt_remapping(&self) -> Remapping {
        let controllers = |line: &str| -> Option<String> {
            let words = line.split_whitespace().skip(1);
            let mut words = words.skip_while(|word| word.bytes().all(|b| b.is_ascii_digit()));
            words.next().map(str::to_owned)
        };
        let all = self.text("proc/interrupts").unwrap_or_default();
        let mut plain = false;
        for controller in all.lines().filter_map(controllers) {
            match controller.strip_prefix("IR-") {
                Some(_) => return Remapping::On,
                None => plain |= controller == "IO-APIC" || controller.starts_with("PCI-MSI"),
            }
        }
        match (plain, self.unsafe_interrupts_allowed()) {
            (false, _) => Remapping::Unknown,
            (true, false) => Remapping::Off,
            (true, true) => Remapping::OffButAllowed,
        }
    }

    fn unsafe_interrupts_allowed(&self) -> bool {
        let modules = ["vfio_iommu_type1", "iommufd"];
        modules.iter().any(|module| {
            let parameter = format!("sys/module/{module}/parameters/allow_unsafe_interrupts");
            self.text(&parameter).is_some_and(|value| value == "Y")
        })
    }
}
