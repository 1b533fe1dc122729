package hostvirt

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

const (
	kvmCheckExtension     = 0xae03
	kvmCapIPASize         = 165
	kvmArmPreferredTarget = 0x8020aeaf
	kvmArmVCPUInit        = 0x4020aeae
	kvmSetOneReg          = 0x4010aeac
	kvmExitMMIO           = 6

	coreReg  = 0x6030_0000_0010_0000 // KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE; plus the offset in 32-bit words
	regX1    = coreReg + 2
	regX2    = coreReg + 4
	regPC    = coreReg + 64
	codeAddr = 0x10000
	mmioAddr = 0x80000 // nothing is there: a store to it is an exit
)

// armInit is struct kvm_vcpu_init.
type armInit struct {
	target   uint32
	features [7]uint32
}

// oneReg is struct kvm_one_reg, which holds a pointer as a u64.
type oneReg struct {
	id   uint64
	addr unsafe.Pointer
}

type armGuest struct{ *kvmGuest }

// newGuest makes a vCPU with its MMU off, as it is after a reset.
func newGuest(kvm int) (*armGuest, error) {
	var code []byte
	for _, w := range []uint32{
		0xaa0203e0, // start: mov  x0, x2
		0xf1000400, // loop:  subs x0, x0, #1
		0x54ffffe1, //        b.ne loop
		0xf9000020, //        str  x0, [x1]
		0x17fffffc, //        b    start
	} {
		code = binary.LittleEndian.AppendUint32(code, w)
	}
	// A VM's type is the size of its physical addresses in bits; 0 means 40, which not every CPU has.
	bits, err := ioctl(kvm, kvmCheckExtension, kvmCapIPASize)
	if err != nil {
		bits = 0
	}
	g, err := newVM(kvm, bits, codeAddr, code)
	if err != nil {
		return nil, err
	}
	ag := &armGuest{g}
	if err = g.addVCPU(kvm); err == nil {
		err = ag.setUp()
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return ag, nil
}

func (g *armGuest) setUp() error {
	var init armInit
	err := ioctlPtr(g.vm, kvmArmPreferredTarget, unsafe.Pointer(&init))
	if err == nil {
		err = ioctlPtr(g.vcpu, kvmArmVCPUInit, unsafe.Pointer(&init))
	}
	if err == nil {
		err = g.setReg(regX1, mmioAddr)
	}
	if err == nil {
		err = g.setReg(regPC, codeAddr)
	}
	if err != nil {
		return fmt.Errorf("set up a vCPU: %w", err)
	}
	return nil
}

func (g *armGuest) setReg(id, value uint64) error {
	r := oneReg{id: id, addr: unsafe.Pointer(&value)}
	return ioctlPtr(g.vcpu, kvmSetOneReg, unsafe.Pointer(&r))
}

// run lets the program go on after the store of the run before: it takes its count from x2.
func (g *armGuest) run(iterations uint64) error {
	if err := g.setReg(regX2, iterations); err != nil {
		return fmt.Errorf("set the registers of a vCPU: %w", err)
	}
	return g.enter(kvmExitMMIO)
}

// hasVirtFlags: arm64 CPUs do not announce it to user space.
func hasVirtFlags() bool { return true }
