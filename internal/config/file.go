package config

import (
	"strconv"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// File is what an agentkernel.toml says. The zero value of a field means that the file does not have that key.
type File struct {
	Name   string // [sandbox] name
	Rootfs string // [sandbox] rootfs: image name, or path of a file; Load makes a path absolute
	// Dockerfile, [sandbox] dockerfile, is the path of what the image is built from; Load makes it absolute. Not with Rootfs.
	Dockerfile string
	Dir        string // of the file: the project, absolute and without symbolic links; set by Load
	Agent      string // [agent] preferred, one of sandbox.Agents
	VCPUs      int    // [resources] vcpus
	MemoryMiB  int    // [resources] memory_mb
	DiskMiB    int    // [resources] disk_mb

	IdleTimeoutMs int64  // [sandbox] idle_timeout
	VsockCID      uint32 // [network] vsock_cid
}

// Spec is what the file asks for, with the defaults for what it leaves open. Name, Arch and Project may still be empty.
func (f File) Spec() sandbox.Spec {
	s := sandbox.Spec{
		Name: f.Name, Image: sandbox.DefaultImage, Agent: f.Agent,
		VCPUs: sandbox.DefaultVCPUs, MemoryMiB: sandbox.DefaultMemoryMiB, DiskMiB: sandbox.DefaultDiskMiB,
		VsockCID: f.VsockCID, IdleTimeoutMs: f.IdleTimeoutMs,
	}
	if f.Rootfs != "" {
		s.Image = f.Rootfs
	}
	if f.VCPUs != 0 {
		s.VCPUs = f.VCPUs
	}
	if f.MemoryMiB != 0 {
		s.MemoryMiB = f.MemoryMiB
	}
	if f.DiskMiB != 0 {
		s.DiskMiB = f.DiskMiB
	}
	return s
}

// Template is a commented agentkernel.toml for a new project. An empty agent or image leaves that key commented out. Values
// are not checked: Parse does that.
func Template(name, agent, image string) []byte {
	line := func(key, value, example string) string {
		if value == "" {
			return "# " + key + " = " + quote(example)
		}
		return key + " = " + quote(value)
	}
	return []byte(`# What agentkernel create and agentkernel run use for this project. Flags come first, then this file.

[sandbox]
` + line("name", name, "my-project") + `
# Name of an image (agentkernel image ls), a reference to a container image such as python:3.12-alpine or
# ghcr.io/owner/name:tag, or path of an image file in this directory.
` + line("rootfs", image, sandbox.DefaultImage) + `
# Or a Dockerfile in this directory, to build the image from: agentkernel create --build
# dockerfile = "Dockerfile"
# Stop the sandbox when nothing happened in it for so long.
# idle_timeout = "30m"

[agent]
# claude, gemini, codex or opencode
` + line("preferred", agent, sandbox.Agents[0]) + `

[resources]
vcpus = ` + strconv.Itoa(sandbox.DefaultVCPUs) + `
memory_mb = ` + strconv.Itoa(sandbox.DefaultMemoryMiB) + `
# Size of the sandbox's own disk, which takes on the host what is written to it.
# disk_mb = ` + strconv.Itoa(sandbox.DefaultDiskMiB) + `

[network]
# Assigned when it is left out.
# vsock_cid = ` + strconv.Itoa(sandbox.MinVsockCID) + `
`)
}

// quote writes s as a basic string of TOML (toml.io, v1.0.0, "String").
func quote(s string) string {
	out := []rune{'"'}
	for _, r := range s { // bytes that are not UTF-8 become U+FFFD: TOML has no way to say them
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', r)
		case r < 0x20 || r == 0x7f:
			const hex = "0123456789abcdef"
			out = append(out, '\\', 'u', '0', '0', rune(hex[r>>4]), rune(hex[r&15]))
		default:
			out = append(out, r)
		}
	}
	return string(append(out, '"'))
}
