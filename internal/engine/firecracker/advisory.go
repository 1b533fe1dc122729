package firecracker

import "github.com/agentkernel/agentkernel/internal/engine/firecracker/fcapi"

// Advisory is a published vulnerability of some versions.
type Advisory struct {
	ID      string
	Program string // firecracker or jailer
	Summary string
	// Concerns says whether it can be used against VMMs as this engine starts them.
	Concerns bool
	Fixed    string // the first version without it, of the same line or a newer one
}

// Advisories are those that a version has.
func Advisories(v fcapi.Version) []Advisory {
	version := func(major, minor, patch int) fcapi.Version {
		return fcapi.Version{Major: major, Minor: minor, Patch: patch}
	}
	between := func(from, to fcapi.Version) bool { return v.Compare(from) >= 0 && v.Compare(to) <= 0 }
	var found []Advisory
	if between(version(0, 0, 0), version(1, 13, 1)) || v == version(1, 14, 0) {
		found = append(found, Advisory{
			ID: "CVE-2026-1386", Program: jailerProgram, Concerns: true, Fixed: "1.13.2 or 1.14.1",
			Summary: "follows symbolic links in its directories, through which a user of the host who may write there has it overwrite files",
		})
	}
	if between(version(1, 13, 0), version(1, 14, 3)) || v == version(1, 15, 0) {
		found = append(found, Advisory{
			ID: "CVE-2026-5747", Program: program, Concerns: false, Fixed: "1.14.4 or 1.15.1",
			Summary: "lets a guest write outside of memory through virtio over PCI, which agentkernel does not switch on",
		})
	}
	return found
}
