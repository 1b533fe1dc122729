package qemu

import (
	"strconv"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// kernelParameters is the guest kernel's command line: Documentation/admin-guide/kernel-parameters.rst. Nothing in it
// trades hardening for speed.
func (c *command) kernelParameters() string {
	p := []string{
		"quiet",
		"panic=-1", // reset at once, which ends QEMU
		"rdinit=/init",
		"random.trust_cpu=on",      // the CPU's generator is QEMU's, and QEMU's is the host's
		"rcupdate.rcu_expedited=1", // a microVM has few CPUs to disturb, and booting waits for many grace periods
	}
	if c.spec.Arch == sandbox.X8664 {
		p = append(p, c.x86Parameters()...)
	} else {
		p = append(p, "console=ttyAMA0")
	}
	if c.accel == accelTCG {
		// Programs that start and end soon map and unmap less that they never touch: images/kernel/patches.
		p = append(p, "fault_around_bytes="+strconv.Itoa(faultAround))
	}
	if c.token != "" {
		p = append(p, "agentkernel.link="+c.token)
	}
	for _, d := range c.spec.Disks {
		p = append(p, d.Parameter(""))
	}
	if c.spec.Template {
		p = append(p, sandbox.TemplateParameter)
	}
	return strings.Join(p, " ")
}

// faultAround is how much of a file an emulated guest maps where it reads a page, in bytes. A kernel without our patch goes on
// with its own 64 KiB.
const faultAround = 16 << 10

// kernelHZ is CONFIG_HZ of the guest kernel: images/kernel/common.config.
const kernelHZ = 100

func (c *command) x86Parameters() []string {
	p := []string{
		"console=ttyS0", "8250.nr_uarts=1",
		"earlyprintk=serial,ttyS0,115200", // until the console is there: a kernel that fails earlier would say nothing
		"reboot=t",                        // there is no ACPI; a triple fault resets at once
	}
	if c.spec.Kernel.LAPICTimer {
		p = append(p, "lapic_timer_khz="+strconv.Itoa(lapicTimerKHz))
	}
	if c.accel != accelTCG {
		return p // kvm-clock and the kernel's own choices
	}
	p = append(p,
		"tsc=reliable", "tsc_early_khz="+strconv.Itoa(c.tscKHz), // the host's counter: there is nothing to check it against
		"no_timer_check",
		"percpu_alloc=page", // a per-CPU area in large pages costs more to set up than it saves here
	)
	if c.spec.VCPUs == 1 {
		return append(p, "noreplace-smp") // patching lock prefixes out takes longer than they do
	}
	// The loops in a jiffy. Without it every further vCPU calibrates its delay loop: half a second, 500 M instructions.
	return append(p, "lpj="+strconv.Itoa(c.tscKHz*1000/kernelHZ))
}
