package qemu

import (
	"fmt"

	"github.com/agentkernel/agentkernel/internal/hostvirt"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxCounterDrift is by how much the rates of two counters may differ that are taken for the same, in parts of a million. The
// measurement is right to some ten; a guest's clock that is off by this much is within what ntpd(8) corrects.
const maxCounterDrift = 200

// cpu says what a host must be alike in to restore a state that is saved here. Under software emulation the CPU is QEMU's own, but
// for the rate of the counter that an x86 guest has learnt when it booted, which is the host's.
func (e *Engine) cpu(arch sandbox.Arch, accel string) (string, error) {
	switch {
	case accel != accelTCG:
		return hostvirt.CPU()
	case arch == sandbox.X8664:
		return counterCPU(e.tsc.KHz()), nil
	}
	return "QEMU's own", nil
}

const counterFormat = "QEMU's own, its counter at %d kHz"

func counterCPU(kHz int) string { return fmt.Sprintf(counterFormat, kHz) }

// alike compares two answers of cpu.
func alike(a, b string) bool {
	var x, y int
	if _, err := fmt.Sscanf(a, counterFormat, &x); err != nil || counterCPU(x) != a {
		return a == b
	}
	if _, err := fmt.Sscanf(b, counterFormat, &y); err != nil || counterCPU(y) != b {
		return false
	}
	return (max(x, y)-min(x, y))*1_000_000 <= min(x, y)*maxCounterDrift
}
