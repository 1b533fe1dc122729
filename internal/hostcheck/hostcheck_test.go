package hostcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host makes a tree with these files.
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestGather(t *testing.T) {
	f := Gather(host(t, map[string]string{
		"proc/cpuinfo":                      "processor\t: 0\nflags\t\t: fpu svm hypervisor\n\nprocessor\t: 1\nflags\t\t: vmx\n",
		"proc/meminfo":                      "MemTotal:  100 kB\nSwapTotal:       2048 kB\n",
		"proc/self/cgroup":                  "0::/user.slice/me\n",
		"proc/self/ns/user":                 "",
		"proc/sys/vm/nr_hugepages":          "8\n",
		"proc/sys/user/max_user_namespaces": "100\n",
		"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n",
		"sys/fs/cgroup/cgroup.controllers":                      "cpu memory pids\n",
		"sys/fs/cgroup/user.slice/me/cgroup.controllers":        "memory pids\n",
		"sys/kernel/mm/ksm/run":                                 "1\n",
		"sys/kernel/mm/transparent_hugepage/enabled":            "always [madvise] never\n",
		"dev/kvm": "",
	}))
	f.Root = false
	if !f.SVM || f.VMX || !f.Hypervisor || f.SwapKiB != 2048 || strings.Join(f.Delegated, " ") != "memory pids" || f.HugePages != 8 || !f.KSM ||
		f.TransparentHP != "madvise" || !f.KVMOpens || f.UserNamespaces != 100 || f.UnprivilegedUserNS || !f.CgroupV2 || f.CgroupV1 {
		t.Errorf("%+v", f)
	}
	empty := Gather(t.TempDir())
	empty.Root = false
	if empty.VMX || empty.KVMDevice != 0 || empty.CgroupV1 || empty.CgroupV2 || empty.UserNamespaces != -1 || empty.UnprivilegedUserNS {
		t.Errorf("an empty host: %+v", empty)
	}
	for _, c := range empty.Host("amd64") {
		if c.Detail == "" || !c.OK && c.Fix == "" {
			t.Errorf("%+v", c)
		}
	}
}

func TestChecks(t *testing.T) {
	good := Facts{VMX: true, KVMDevice: 0o660, KVMOpens: true, KVMGroup: "virt", CgroupV2: true, Delegated: []string{"memory"}, TransparentHP: "madvise", UserNamespaces: 9, UnprivilegedUserNS: true}
	for _, c := range good.Host("amd64") {
		if !c.OK || c.Fix != "" {
			t.Errorf("on a good host: %+v", c)
		}
	}
	for name, tc := range map[string]struct {
		change func(*Facts)
		check  string
		fix    string
	}{
		"no virtualization":   {func(f *Facts) { f.VMX = false }, "CPU", "firmware"},
		"not nested":          {func(f *Facts) { f.VMX, f.Hypervisor = false, true }, "CPU", "nested"},
		"no kvm":              {func(f *Facts) { f.KVMDevice, f.KVMOpens = 0, false }, "/dev/kvm", "modprobe"},
		"no permission":       {func(f *Facts) { f.KVMOpens = false }, "/dev/kvm", "usermod -aG virt"},
		"not logged in again": {func(f *Facts) { f.KVMOpens, f.KVMMember = false, true }, "/dev/kvm", "newgrp virt"},
		"root's alone":        {func(f *Facts) { f.KVMOpens, f.KVMDevice = false, 0o600 }, "/dev/kvm", "udev"},
		"not delegated":       {func(f *Facts) { f.Delegated = nil }, "cgroups", "Delegate=yes"},
		"version 1":           {func(f *Facts) { f.CgroupV2, f.CgroupV1 = false, true }, "cgroups", "unified"},
		"no namespaces":       {func(f *Facts) { f.UnprivilegedUserNS = false }, "user namespaces", "sysctl"},
		"ksm":                 {func(f *Facts) { f.KSM = true }, "KSM", "ksm/run"},
		"swap":                {func(f *Facts) { f.SwapKiB = 1 << 20 }, "swap", "swapoff"},
		"huge pages":          {func(f *Facts) { f.TransparentHP = "always" }, "huge pages", "madvise"},
	} {
		f := good
		tc.change(&f)
		for _, c := range f.Host("amd64") {
			if bad := c.Name == tc.check; bad == c.OK || bad && !strings.Contains(c.Fix, tc.fix) {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
	const groups, passwd = "root:x:0:\nvirt:x:99:them,me\n", "them:x:7:7::/:/bin/sh\nme:x:8:8::/:/bin/sh\n"
	for uid, want := range map[int]bool{7: true, 8: true, 9: false} {
		if name, member := group(groups, 99, passwd, uid); name != "virt" || member != want {
			t.Errorf("user %d: %s, %v", uid, name, member)
		}
	}
	if name, member := group(groups, 98, passwd, 8); name != "98" || member {
		t.Errorf("a group without a name: %s, %v", name, member)
	}
	if c := (Facts{}).CPU("arm64"); !c.OK {
		t.Errorf("%+v", c)
	}
}
