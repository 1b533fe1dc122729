package config

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// projectSchema is everything that an agentkernel.toml may have.
func projectSchema() schema[File] {
	return schema[File]{
		{"sandbox", []key[File]{
			{"name", "my-project", setName},
			{"rootfs", sandbox.DefaultImage, setRootfs},
			{"dockerfile", "Dockerfile", setDockerfile},
			{"idle_timeout", "30m", setIdleTimeout},
		}},
		{"agent", []key[File]{
			{"preferred", sandbox.Agents[0], setAgent},
		}},
		{"resources", []key[File]{
			{"vcpus", int64(2), setVCPUs},
			{"memory_mb", int64(sandbox.DefaultMemoryMiB), setMemory},
			{"disk_mb", int64(sandbox.DefaultDiskMiB), setDisk},
		}},
		{"network", []key[File]{
			{"vsock_cid", int64(sandbox.MinVsockCID), setCID},
		}},
	}
}

func setName(f *File, value any) string {
	f.Name = value.(string)
	return message(sandbox.ValidateName(f.Name))
}

func setRootfs(f *File, value any) string {
	s := value.(string)
	f.Rootfs = s
	switch {
	case s == "":
		return "rootfs is empty; name an image, such as " + sandbox.DefaultImage + ", or leave it out"
	case len(s) > 1024 || strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Sprintf("rootfs %.40q is neither the name of an image nor a path", s)
	case strings.Contains(s, "://") || strings.HasPrefix(s, "containers-storage:"):
		return fmt.Sprintf("rootfs %q is of another program's store on this host; a project cannot choose that, so give it with --image", s)
	case isPath(s) && !filepath.IsLocal(s):
		return fmt.Sprintf("rootfs %q is outside of this directory; give a path below it, or the name of an image", s)
	}
	return ""
}

func setDockerfile(f *File, value any) string {
	s := value.(string)
	f.Dockerfile = s
	switch {
	case s == "":
		return "dockerfile is empty; give the path of a Dockerfile, or leave it out"
	case len(s) > 1024 || strings.ContainsFunc(s, unicode.IsControl):
		return fmt.Sprintf("dockerfile %.40q is not a path", s)
	case !filepath.IsLocal(s):
		return fmt.Sprintf("dockerfile %q is outside of this directory; give a path below it", s)
	}
	return ""
}

func setAgent(f *File, value any) string {
	f.Agent = value.(string)
	if f.Agent == "" {
		return "preferred is empty; choose one of " + strings.Join(sandbox.Agents, ", ") + ", or leave it out"
	}
	return check(func(s *sandbox.Spec) { s.Agent = f.Agent })
}

func setVCPUs(f *File, value any) string {
	f.VCPUs = toInt(value)
	return check(func(s *sandbox.Spec) { s.VCPUs = f.VCPUs })
}

func setMemory(f *File, value any) string {
	f.MemoryMiB = toInt(value)
	return check(func(s *sandbox.Spec) { s.MemoryMiB = f.MemoryMiB })
}

func setDisk(f *File, value any) string {
	f.DiskMiB = toInt(value)
	return check(func(s *sandbox.Spec) { s.DiskMiB = f.DiskMiB })
}

func setIdleTimeout(f *File, value any) string {
	d, err := time.ParseDuration(value.(string))
	if err != nil || d <= 0 { // 0 means none to a Spec, and is wrong here
		return fmt.Sprintf("idle_timeout %.40q is not a duration; write it as 30m or 2h, or leave it out", value)
	}
	f.IdleTimeoutMs = max(d.Milliseconds(), 1)
	return check(func(s *sandbox.Spec) { s.IdleTimeoutMs = f.IdleTimeoutMs })
}

func setCID(f *File, value any) string {
	n := value.(int64)
	if n < sandbox.MinVsockCID || n > sandbox.MaxVsockCID { // 0 means none to a Spec, and is wrong here
		return fmt.Sprintf("vsock_cid %d cannot be used; use %d to %d, or leave it out to have one assigned", n, sandbox.MinVsockCID, int64(sandbox.MaxVsockCID))
	}
	f.VsockCID = uint32(n)
	return check(func(s *sandbox.Spec) { s.VsockCID = f.VsockCID })
}

// toInt fits an integer into an int of any width; what does not fit is out of every limit anyway.
func toInt(value any) int {
	return int(max(math.MinInt32, min(math.MaxInt32, value.(int64))))
}

// check asks the domain about one value of a spec that is right otherwise. How much memory the host has is not known here:
// that is checked when the sandbox is made.
func check(change func(*sandbox.Spec)) string {
	s := File{Name: "a"}.Spec()
	s.Arch = sandbox.X8664
	change(&s)
	return message(s.Validate(sandbox.Host{}))
}

// message is what is wrong and what would be right.
func message(err error) string {
	if err == nil {
		return ""
	}
	var e *sandbox.Error
	if errors.As(err, &e) && e.Hint != "" {
		return e.Message + "; " + e.Hint
	}
	return err.Error()
}

// isPath reports whether an image may be asked for by path: it has a '/' or begins with '.'. With a '/' inside, it may be a
// reference such as ghcr.io/owner/name too; that is decided by whether there is such a file.
func isPath(image string) bool { return strings.Contains(image, "/") || strings.HasPrefix(image, ".") }
