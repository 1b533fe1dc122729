package hostvirt

import (
	"context"
	"fmt"
	"time"
)

// KVM is the verdict on this host's hardware virtualization: KVM on Linux, the Hypervisor framework on macOS.
type KVM struct {
	Usable bool   `json:"usable"`         // a guest can be run at all
	Good   bool   `json:"good"`           // and at hardware speed
	Reason string `json:"reason"`         // one clause: why, or why not
	Hint   string `json:"hint,omitempty"` // what would make it good
	// NsPerInstruction is the measured time of a guest instruction in a tight loop; 0 when none ran.
	NsPerInstruction float64 `json:"ns_per_instruction,omitempty"`
}

const (
	// probeInstructions is the length of the longest run. Hardware needs about 30 µs for it.
	probeInstructions = 100_000
	// probeBudget ends the probe of a KVM that is slow.
	probeBudget = 200 * time.Millisecond
	// goodNs is the limit between hardware (0.2-2 ns, nested hardware included, as the loop never exits) and emulation in
	// the host's kernel (100 ns and more). TCG needs 1-5 ns.
	goodNs = 20
)

// guest is a vCPU whose program counts down in a loop of two instructions and then hands control back.
type guest interface {
	// run executes 2*iterations instructions and returns at the exit that follows them.
	run(iterations uint64) error
}

// measure runs a guest in growing chunks and returns the nanoseconds per instruction of the best run: any may be
// interrupted, the short ones hold the cost of an exit, and nothing makes a run look faster than it is. A chunk is tried
// only when the ones before it say that it fits into the budget.
func measure(ctx context.Context, g guest, now func() time.Time) (float64, error) {
	begin := now()
	best := 0.0
	for n := uint64(200); ; n *= 4 {
		n = min(n, probeInstructions)
		for range 3 {
			start := now()
			if err := g.run(n / 2); err != nil {
				return 0, fmt.Errorf("run a guest: %w", err)
			}
			took := now().Sub(start)
			if ns := float64(took.Nanoseconds()) / float64(n); best == 0 || ns < best {
				best = ns
			}
			if err := ctx.Err(); err != nil {
				return 0, context.Cause(ctx)
			}
			if now().Sub(begin) > probeBudget {
				return best, nil
			}
		}
		if n == probeInstructions {
			return best, nil
		}
		if next := time.Duration(best * float64(min(n*4, probeInstructions))); now().Sub(begin)+next > probeBudget {
			return best, nil
		}
	}
}

// verdict on a KVM in which a guest ran. flags says whether the CPU announces hardware virtualization.
func verdict(ns float64, flags bool) KVM {
	v := KVM{Usable: true, NsPerInstruction: ns}
	if ns <= goodNs {
		v.Good = true
		v.Reason = fmt.Sprintf("KVM runs a guest instruction in %.2f ns", ns)
		return v
	}
	v.Reason = fmt.Sprintf("KVM is too slow: a guest instruction takes %.0f ns, so it is emulated in software", ns)
	v.Hint = "use a host with hardware virtualization (in a cloud: bare metal, or nested virtualization switched on)"
	if !flags {
		v.Reason += "; the CPU announces neither vmx nor svm"
	}
	return v
}
