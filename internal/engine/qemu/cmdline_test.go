package qemu

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func testCommand() *command {
	c := &command{
		bin: binary{path: "/usr/bin/qemu-system-x86_64", version: "7.2.22", seccomp: true}, accel: accelTCG, token: "00ff", tscKHz: 2_600_000,
		spec: sandbox.MachineSpec{
			ID: "0123456789abcdef", Arch: sandbox.X8664, VCPUs: 1, MemoryMiB: 512,
			Kernel: sandbox.KernelImage{Path: "/k/vmlinux", LAPICTimer: true}, Initrd: "/i/initrd",
			Disks: []sandbox.Disk{
				{Role: sandbox.RootLower, Path: "/img/a,b.erofs", FS: "erofs", ReadOnly: true},
				{Role: sandbox.Upper, Path: "/s/upper=x.ext4", FS: "ext4"},
			},
		},
	}
	c.slots, _ = c.spec.Slots()
	return c
}

func TestArgs(t *testing.T) {
	want := []string{
		"-name", "guest=agentkernel-0123456789abcdef,debug-threads=off",
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-nic", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-M", "microvm,pit=off,pic=off,rtc=on,isa-serial=on,acpi=off,memory-backend=ram",
		"-accel", "tcg,thread=single,tb-size=256",
		"-cpu", "max,-erms,-fsrm,-svm",
		"-smp", "1", "-m", "512M", "-object", "memory-backend-ram,id=ram,size=512M,dump=off,merge=off",
		"-global", "virtio-mmio.force-legacy=false",
		"-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=console,fd=5,server=on,wait=on", "-serial", "chardev:console",
		"-chardev", "socket,id=link,fd=4,server=on,wait=off", "-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,chardev=link,nr=1,name=agentkernel.0",
		"-blockdev", "driver=file,node-name=rootfs,filename=/img/a,,b.erofs,read-only=on", "-device", "virtio-blk-device,drive=rootfs,serial=rootfs,werror=report,rerror=report",
		"-blockdev", "driver=file,node-name=upper,filename=/s/upper=x.ext4,discard=unmap", "-device", "virtio-blk-device,drive=upper,serial=upper,werror=report,rerror=report",
		"-kernel", "/k/vmlinux", "-initrd", "/i/initrd",
		"-append", "quiet panic=-1 rdinit=/init random.trust_cpu=on rcupdate.rcu_expedited=1 console=ttyS0 8250.nr_uarts=1" +
			" earlyprintk=serial,ttyS0,115200 reboot=t lapic_timer_khz=1000000 tsc=reliable tsc_early_khz=2600000 no_timer_check" +
			" percpu_alloc=page noreplace-smp fault_around_bytes=16384 agentkernel.link=00ff agentkernel.disk=rootfs:erofs:ro agentkernel.disk=upper:ext4:rw",
	}
	if diff := cmp.Diff(want, testCommand().args()); diff != "" {
		t.Errorf("command line (-want +got):\n%s", diff)
	}
}

func TestArgsOfVariants(t *testing.T) {
	for _, tc := range []struct {
		name      string
		change    func(*command)
		has, lack []string
	}{
		{"kernel without the LAPIC parameter", func(c *command) { c.spec.Kernel.LAPICTimer, c.legacy = false, true },
			[]string{"microvm,pit=on,pic=on,"}, []string{"lapic_timer_khz", "pit=off", "pic=off"}},
		{"restoring", func(c *command) { c.use, c.memory = restores, "/s/a,b/memory" },
			[]string{"memory-backend-file,id=ram,size=512M,dump=off,merge=off,share=off,mem-path=/s/a,,b/memory -global", "filename=/s/upper=x.ext4", "-S -incoming defer"},
			[]string{"-kernel", "-initrd", "-append", "readonly=on"}},
		{"restoring with a QEMU that can open the memory for reading alone", func(c *command) { c.use, c.memory, c.bin.version = restores, "/s/memory", "10.0.2" },
			[]string{"share=off,mem-path=/s/memory,readonly=on,rom=off "}, nil},
		{"finishing what nobody was connected to", func(c *command) { c.use, c.unlinked = finishes, true }, []string{"null,id=link"}, nil},
		{"finishing", func(c *command) {
			c.use, c.memory = finishes, "/s/memory"
			c.slots = []sandbox.Slot{{ReadOnly: true}, {}}
		},
			[]string{"-name guest=agentkernel-0123456789abcdef.finish,", "share=on,mem-path=/s/memory ", "-S -incoming defer", "null,id=console", "ringbuf,id=link",
				"driver=null-co,node-name=spare0,size=1048576,read-zeroes=on,read-only=on -device virtio-blk-device,drive=spare0,", "driver=null-co,node-name=spare1,size=1048576,read-zeroes=on -device"},
			[]string{"filename=", "-kernel", "server=on"}},
		{"two vCPUs", func(c *command) { c.spec.VCPUs = 2 },
			[]string{"-smp 2 ", "tcg,thread=multi"}, []string{"noreplace-smp"}},
		{"x86_64 on KVM", func(c *command) { c.accel = accelKVM },
			[]string{"-accel kvm ", "-cpu host "}, []string{"tsc_early_khz", "tsc=", "clearcpuid", "no_timer_check", "noreplace-smp", "tb-size"}},
		{"aarch64", func(c *command) { c.spec.Arch = sandbox.AArch64 },
			[]string{"virt,gic-version=3,acpi=off", "-cpu max,pauth-impdef=on ", "console=ttyAMA0", "agentkernel.link=00ff"},
			[]string{"ttyS0", "tsc", "lapic", "reboot=t", "isa-serial", "microvm"}},
		{"aarch64 on KVM", func(c *command) { c.spec.Arch, c.accel = sandbox.AArch64, accelKVM },
			[]string{"virt,gic-version=host,", "-cpu host "}, nil},
		{"aarch64 on HVF", func(c *command) { c.spec.Arch, c.accel = sandbox.AArch64, accelHVF },
			[]string{"virt,gic-version=3,", "-accel hvf ", "-cpu host "}, nil},
		{"QEMU without seccomp", func(c *command) { c.bin.seccomp = false },
			nil, []string{"-sandbox"}},
		{"counting", func(c *command) { c.plugin, c.spec.CountFile = "/p/i.so", "/r/a,b" },
			[]string{"-plugin file=/p/i.so,out=/r/a,,b "}, nil},
		{"hardening stays on", func(*command) {},
			nil, []string{"mitigations", "nokaslr", "-smep", "-smap", "-xsave", "rodata", "nopti"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := testCommand()
			tc.change(c)
			line := strings.Join(c.args(), " ")
			for _, s := range tc.has {
				if !strings.Contains(line, s) {
					t.Errorf("%q is missing in\n%s", s, line)
				}
			}
			for _, s := range tc.lack {
				if strings.Contains(line, s) {
					t.Errorf("%q is in\n%s", s, line)
				}
			}
			if !slices.Contains(c.args(), marker(c.name())) {
				t.Error("the marker is no argument of its own: Sweep would not find it")
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for name, change := range map[string]func(*command){
		"a role with a parameter in it": func(c *command) { c.spec.Disks[0].Role = "rootfs init=/bin/sh" },
		"a role with an option in it":   func(c *command) { c.spec.Disks[0].Role = "a,discard=unmap" },
		"a file system with a space":    func(c *command) { c.spec.Disks[0].FS = "ext4 panic=0" },
		"a role twice":                  func(c *command) { c.spec.Disks[1].Role = "rootfs" },
		"a role too long for a serial":  func(c *command) { c.spec.Disks[0].Role = "abcdefghijklmnopqrstu" },
		"an unknown architecture":       func(c *command) { c.spec.Arch = "vax" },
		"counting on KVM":               func(c *command) { c.spec.CountFile, c.accel = "/count", accelKVM },
	} {
		c := testCommand()
		change(c)
		if err := c.check(); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	if err := testCommand().check(); err != nil {
		t.Error(err)
	}
}
