package hostvirt

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"
)

const (
	kvmGetSregs    = 0x8138ae83
	kvmSetSregs    = 0x4138ae84
	kvmSetRegs     = 0x4090ae82
	kvmSetTSSAddr  = 0xae47
	kvmExitHLT     = 5
	codeAddr       = 0x1000
	tssAddr        = 0xfffbd000 // three pages below 4 GiB that Intel CPUs before 2010 need for real mode
	rflagsReserved = 2          // bit 1 is always set
)

// x86Regs is struct kvm_regs.
type x86Regs struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8to15                                 [8]uint64
	rip, rflags                            uint64
}

// x86Sregs is struct kvm_sregs, as bytes: its first member is the code segment.
type x86Sregs [312]byte

type x86Guest struct{ *kvmGuest }

// newGuest makes a vCPU in real mode, as it is after a reset.
func newGuest(kvm int) (*x86Guest, error) {
	code := []byte{
		0x66, 0x49, // dec ecx
		0x75, 0xfc, // jnz -4
		0xf4, // hlt
	}
	g, err := newVM(kvm, 0, codeAddr, code)
	if err != nil {
		return nil, err
	}
	_, _ = ioctl(g.vm, kvmSetTSSAddr, tssAddr) // only old Intel CPUs need it, and only they have it
	if err := g.addVCPU(kvm); err != nil {
		g.close()
		return nil, err
	}
	var sregs x86Sregs
	if err = ioctlPtr(g.vcpu, kvmGetSregs, unsafe.Pointer(&sregs)); err == nil {
		binary.NativeEndian.PutUint64(sregs[0:], 0)  // cs.base
		binary.NativeEndian.PutUint16(sregs[12:], 0) // cs.selector
		err = ioctlPtr(g.vcpu, kvmSetSregs, unsafe.Pointer(&sregs))
	}
	if err != nil {
		g.close()
		return nil, fmt.Errorf("set up a vCPU: %w", err)
	}
	return &x86Guest{g}, nil
}

func (g *x86Guest) run(iterations uint64) error {
	regs := x86Regs{rcx: iterations, rip: codeAddr, rflags: rflagsReserved}
	if err := ioctlPtr(g.vcpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set the registers of a vCPU: %w", err)
	}
	return g.enter(kvmExitHLT)
}

// hasVirtFlags reports whether the CPU announces hardware virtualization. It explains a verdict and never makes one.
func hasVirtFlags() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return true // not known
	}
	for line := range strings.Lines(string(b)) {
		if name, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			for _, f := range strings.Fields(flags) {
				if f == "vmx" || f == "svm" {
					return true
				}
			}
			return false
		}
	}
	return true
}
