// Package hostcheck looks at a Linux host for what makes microVMs run well and safely on it, and says what to change.
//
// Facts are read from /proc, /sys and /dev; the checks are about them alone.
package hostcheck

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Facts about a host. The zero value of a field means that the host does not tell.
type Facts struct {
	Root bool // whether this process is root's

	VMX, SVM   bool // Intel's and AMD's virtualization, by /proc/cpuinfo
	Hypervisor bool // the host is a virtual machine itself

	KVMDevice fs.FileMode // of /dev/kvm; 0 when there is none
	KVMOpens  bool        // for this process
	KVMGroup  string      // its group, by name; by number when that has none
	KVMMember bool        // whether the host's list of groups has this user in it

	CgroupV1, CgroupV2 bool
	Delegated          []string // controllers of cgroup2 that this process's own group may hand on

	HugePages     int    // reserved pages
	TransparentHP string // always, madvise or never
	KSM           bool   // kernel samepage merging runs
	SwapKiB       int64

	UserNamespaces     int  // how many may be made; -1 when the kernel has none
	UnprivilegedUserNS bool // also without privileges
}

// Gather reads the facts below root, which is "/" but in tests.
func Gather(root string) Facts {
	read := func(path string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(data))
	}
	f := Facts{Root: os.Geteuid() == 0, TransparentHP: selected(read("sys/kernel/mm/transparent_hugepage/enabled"))}
	flags := cpuFlags(read("proc/cpuinfo"))
	f.VMX, f.SVM, f.Hypervisor = slices.Contains(flags, "vmx"), slices.Contains(flags, "svm"), slices.Contains(flags, "hypervisor")
	kvm := filepath.Join(root, "dev/kvm")
	if info, err := os.Stat(kvm); err == nil {
		f.KVMDevice = info.Mode()
		f.KVMGroup, f.KVMMember = group(read("etc/group"), groupOf(info), read("etc/passwd"), os.Geteuid())
		if dev, err := os.OpenFile(kvm, os.O_RDWR, 0); err == nil {
			f.KVMOpens = true
			_ = dev.Close()
		}
	}
	f.CgroupV2 = exists(filepath.Join(root, "sys/fs/cgroup/cgroup.controllers"))
	f.CgroupV1 = !f.CgroupV2 && exists(filepath.Join(root, "sys/fs/cgroup/memory"))
	if own := ownGroup(read("proc/self/cgroup")); f.CgroupV2 && own != "" && writable(filepath.Join(root, "sys/fs/cgroup", own)) {
		f.Delegated = strings.Fields(read(filepath.Join("sys/fs/cgroup", own, "cgroup.controllers")))
	}
	f.HugePages, _ = strconv.Atoi(read("proc/sys/vm/nr_hugepages"))
	f.KSM = read("sys/kernel/mm/ksm/run") == "1"
	f.SwapKiB = meminfo(read("proc/meminfo"), "SwapTotal")
	f.UserNamespaces = -1
	if exists(filepath.Join(root, "proc/self/ns/user")) {
		f.UserNamespaces, _ = strconv.Atoi(read("proc/sys/user/max_user_namespaces"))
	}
	// The first is Debian's own, the second AppArmor's; where they are missing, there is no such limit.
	f.UnprivilegedUserNS = f.UserNamespaces > 0 && read("proc/sys/kernel/unprivileged_userns_clone") != "0" &&
		read("proc/sys/kernel/apparmor_restrict_unprivileged_userns") != "1"
	return f
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func writable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir() && ownedByUs(info)
}

// group returns the name of a group by group(5), and whether it lists the user whom passwd(5) gives this number.
func group(groups string, gid int, passwd string, uid int) (name string, member bool) {
	user := ""
	for line := range strings.Lines(passwd) {
		if v := strings.Split(strings.TrimSpace(line), ":"); len(v) > 2 && v[2] == strconv.Itoa(uid) {
			user = v[0]
			break
		}
	}
	for line := range strings.Lines(groups) {
		if v := strings.Split(strings.TrimSpace(line), ":"); len(v) == 4 && v[2] == strconv.Itoa(gid) {
			return v[0], user != "" && slices.Contains(strings.Split(v[3], ","), user)
		}
	}
	return strconv.Itoa(gid), false
}

// selected returns the word in brackets of a line such as "always [madvise] never".
func selected(line string) string {
	_, rest, _ := strings.Cut(line, "[")
	word, _, ok := strings.Cut(rest, "]")
	if !ok {
		return ""
	}
	return word
}

// cpuFlags are those of the first CPU, which have another name on arm64.
func cpuFlags(cpuinfo string) []string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && (strings.TrimSpace(name) == "flags" || strings.TrimSpace(name) == "Features") {
			return strings.Fields(value)
		}
	}
	return nil
}

// ownGroup is the path of this process's group in cgroup2: cgroups(7).
func ownGroup(text string) string {
	for line := range strings.Lines(text) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	return ""
}

func meminfo(text, key string) int64 {
	sc := bufio.NewScanner(bytes.NewReader([]byte(text)))
	for sc.Scan() {
		if value, ok := strings.CutPrefix(sc.Text(), key+":"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return n
		}
	}
	return 0
}
