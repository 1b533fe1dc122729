package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// cgroupParent is the cgroup that has one for each VMM below it.
const cgroupParent = "agentkernel"

// cgroupLimits are the files of a limit: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of the kernel. The period of
// cpu is the default of both, 100 ms.
var cgroupLimits = []struct {
	controller, v1, v2 string
	value              func(Limits) (v1, v2 string)
}{
	{"memory", "memory.limit_in_bytes", "memory.max", func(l Limits) (string, string) { return same(fmt.Sprint(l.MemoryBytes)) }},
	{"pids", "pids.max", "pids.max", func(l Limits) (string, string) { return same(fmt.Sprint(l.Processes)) }},
	{"cpu", "cpu.cfs_quota_us", "cpu.max", func(l Limits) (string, string) {
		quota := fmt.Sprint(100_000 * l.CPUs)
		return quota, quota + " 100000"
	}},
}

func same(s string) (string, string) { return s, s }

// CgroupArguments are the jailer's for a cgroup with limits, as far as this host has the controllers for them and lets us use
// them. There are none where it does not.
func CgroupArguments(l Limits) ([]string, error) {
	all, err := mountedHierarchies()
	if err != nil {
		return nil, err
	}
	var args []string
	version := 0 // the jailer takes one; a host with both has most controllers in one of them
	for _, limit := range cgroupLimits {
		i := slices.IndexFunc(all, func(h hierarchy) bool { return slices.Contains(h.controllers, limit.controller) })
		if i < 0 || version != 0 && all[i].version != version || all[i].prepare(limit.controller) != nil {
			continue
		}
		version = all[i].version
		v1, v2 := limit.value(l)
		if version == 1 {
			args = append(args, "--cgroup", limit.v1+"="+v1)
		} else {
			args = append(args, "--cgroup", limit.v2+"="+v2)
		}
	}
	if version == 0 {
		return nil, nil
	}
	return append([]string{"--cgroup-version", fmt.Sprint(version), "--parent-cgroup", cgroupParent}, args...), nil
}

// hierarchy is a mounted hierarchy of cgroups.
type hierarchy struct {
	path        string
	version     int
	controllers []string
}

// hierarchies reads a list of mounts in the form of fstab(5).
func hierarchies(mounts string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(mounts) {
		f := strings.Fields(line) // device, directory, type, options
		if len(f) < 4 {
			continue
		}
		switch f[2] {
		case "cgroup2":
			has, err := os.ReadFile(filepath.Join(f[1], "cgroup.controllers"))
			if err == nil {
				found = append(found, hierarchy{f[1], 2, strings.Fields(string(has))})
			}
		case "cgroup":
			found = append(found, hierarchy{f[1], 1, strings.Split(f[3], ",")})
		}
	}
	return found
}

func mountedHierarchies() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("look for cgroups: %w", err)
	}
	return hierarchies(string(b)), nil
}

// prepare makes the parent of the VMMs' cgroups, and gives a controller to them. It fails where a container's host, or a process in
// the root of the hierarchy, does not permit it.
func (h hierarchy) prepare(controller string) error {
	parent := filepath.Join(h.path, cgroupParent)
	if h.version == 2 {
		if err := enable(h.path, controller); err != nil {
			return err
		}
	}
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if h.version == 2 {
		return enable(parent, controller)
	}
	return nil
}

func enable(cgroup, controller string) error {
	return os.WriteFile(filepath.Join(cgroup, "cgroup.subtree_control"), []byte("+"+controller), 0)
}

// RemoveCgroups removes the cgroups of a VMM that has ended. That there are none is no error. Their parent stays.
func RemoveCgroups(marker string) error {
	all, err := mountedHierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range all {
		if err := os.Remove(filepath.Join(h.path, cgroupParent, marker)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the VMM's cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}
