package firecracker

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

func TestConfiguration(t *testing.T) {
	spec := sandbox.MachineSpec{
		ID: "0", Arch: sandbox.X8664, VCPUs: 2, MemoryMiB: 256, VsockCID: 7, Initrd: "/i",
		Kernel: sandbox.KernelImage{Path: "/k", LAPICTimer: true},
		Disks: []sandbox.Disk{
			{Role: sandbox.RootLower, Path: "/a b", FS: "erofs", ReadOnly: true},
			{Role: sandbox.Upper, Path: "/u", FS: "ext4"},
			{Role: sandbox.Workspace, Path: "/w", FS: "ext4", ReadOnly: true},
		},
	}
	spec.Template, spec.Spares = true, []sandbox.Spare{{ReadOnly: true}, {}}
	dir := t.TempDir()
	inDir := func(path *string) {
		*path = filepath.Join(dir, *path)
		if err := os.WriteFile(*path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inDir(&spec.Kernel.Path)
	inDir(&spec.Initrd)
	for i := range spec.Disks {
		inDir(&spec.Disks[i].Path)
	}
	plan, err := planOf(spec, "/spare")
	if err != nil {
		t.Fatal(err)
	}
	config := plan.config
	got, err := json.MarshalIndent(config, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "drives": [
  {
   "drive_id": "disk0",
   "is_root_device": false,
   "is_read_only": true,
   "path_on_host": "files/disk0",
   "cache_type": "Unsafe"
  },
  {
   "drive_id": "disk1",
   "is_root_device": false,
   "path_on_host": "files/disk1",
   "cache_type": "Writeback"
  },
  {
   "drive_id": "disk2",
   "is_root_device": false,
   "is_read_only": true,
   "path_on_host": "files/disk2",
   "cache_type": "Unsafe"
  },
  {
   "drive_id": "disk3",
   "is_root_device": false,
   "is_read_only": true,
   "path_on_host": "files/disk3",
   "cache_type": "Unsafe"
  },
  {
   "drive_id": "disk4",
   "is_root_device": false,
   "path_on_host": "files/disk4",
   "cache_type": "Writeback"
  }
 ],
 "boot-source": {
  "kernel_image_path": "files/kernel",
  "initrd_path": "files/initramfs",
  "boot_args": "quiet console=ttyS0 8250.nr_uarts=1 panic=-1 rdinit=/init random.trust_cpu=on rcupdate.rcu_expedited=1 earlyprintk=serial,ttyS0,115200 reboot=k lapic_timer_khz=1000000 agentkernel.disk=rootfs:erofs:ro:vda agentkernel.disk=upper:ext4:rw:vdb agentkernel.disk=workspace:ext4:ro:vdc agentkernel.template"
 },
 "machine-config": {
  "vcpu_count": 2,
  "mem_size_mib": 256
 },
 "vsock": {
  "guest_cid": 7,
  "uds_path": "sockets/v.sock"
 }
}`
	if string(got) != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	wantResources := []resource{
		{"files/kernel", dir + "/k", false}, {"files/initramfs", dir + "/i", false},
		{"files/disk0", dir + "/a b", false}, {"files/disk1", dir + "/u", true}, {"files/disk2", dir + "/w", false},
		{"files/disk3", "/spare", false}, {"files/disk4", "/spare", true},
	}
	if !slices.Equal(plan.resources, wantResources) {
		t.Errorf("%+v, want %+v", plan.resources, wantResources)
	}
	spec.Arch = sandbox.AArch64
	if plan, err = planOf(spec, ""); err != nil {
		t.Fatal(err)
	}
	if args := plan.config.BootSource.BootArgs; strings.Contains(args, "reboot=k") || strings.Contains(args, "lapic") || plan.config.Entropy == nil {
		t.Errorf("aarch64: %s, %v", args, plan.config.Entropy)
	}
	spec.Spares = make([]sandbox.Spare, maxDisks)
	if _, err := planOf(spec, ""); err == nil {
		t.Error("more disks than have a letter")
	}
}

// What Firecracker 1.16.1 says when it does not like something.
func TestComplaints(t *testing.T) {
	for name, tc := range map[string]struct{ said, want string }{
		"a sentence and its source": {
			`2026-11-24T08:04:37.297 [agentkernel-x:main:WARN] in passing
2026-11-24T08:04:37.298583314 [agentkernel-x:main:ERROR] RunWithApiError error: Failed to build MicroVM from Json: Could not Start MicroVM from one single json: System configuration error: Kernel Loader: Unable to read elf header
2026-11-24T08:04:37.298645744 [agentkernel-x:main:ERROR] Firecracker exiting with error. exit_code=1
Error: RunWithApi(BuildFromJson(StartMicroVM(ConfigureSystem(KernelLoader(Elf(ReadElfHeader))))))
`, "System configuration error: Kernel Loader: Unable to read elf header",
		},
		"the source alone":   {"Error: ParseArguments(UnexpectedArgument(\"foo\"))\n", `Error: ParseArguments(UnexpectedArgument("foo"))`},
		"refused guests":     {"2026-11-24T08:04:37.3 [agentkernel-x:main:ERROR] Received signal 13, code 0.\n", ""},
		"nothing":            {"", ""},
		"not fit for a user": {"Error: \x1b[31mred\x00\n", "Error: [31mred"},
	} {
		if got := complaints([]byte(tc.said)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
