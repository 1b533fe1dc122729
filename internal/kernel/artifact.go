package kernel

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// xenPhys32Entry is the type of the ELF note that holds the 32-bit entry point
// of a PVH boot: XEN_ELFNOTE_PHYS32_ENTRY of Xen's public elfnote.h.
const xenPhys32Entry = 18

// checkVmlinux makes sure that an ELF kernel can be started by PVH.
func checkVmlinux(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(io.LimitReader(p.Open(), 1<<20))
		if err != nil {
			return fmt.Errorf("check %s: read its notes: %w", path, err)
		}
		if hasNote(notes, f.ByteOrder.Uint32, "Xen", xenPhys32Entry) {
			return nil
		}
	}
	return fmt.Errorf("check %s: it has no PVH entry point", path)
}

// hasNote looks for a note in an ELF note segment: name size, descriptor size
// and type in 4 bytes each, then name and descriptor, each padded to 4 bytes.
func hasNote(notes []byte, u32 func([]byte) uint32, name string, typ uint32) bool {
	for len(notes) >= 12 {
		nameSize, descSize, t := uint64(u32(notes)), uint64(u32(notes[4:])), u32(notes[8:])
		desc := 12 + (nameSize+3)&^3
		next := desc + (descSize+3)&^3
		if next > uint64(len(notes)) {
			return false
		}
		if t == typ && string(bytes.TrimRight(notes[12:12+nameSize], "\x00")) == name {
			return true
		}
		notes = notes[next:]
	}
	return false
}

// checkMagic makes sure that a file has magic at an offset.
func checkMagic(path string, offset int64, magic string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	defer f.Close()
	got := make([]byte, len(magic))
	if _, err := f.ReadAt(got, offset); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	if string(got) != magic {
		return fmt.Errorf("check %s: at offset %d it has %q instead of %q", path, offset, got, magic)
	}
	return nil
}

const (
	imageMagic, imageMagicOffset     = "ARM\x64", 56     // Documentation/arm64/booting.rst
	bzImageMagic, bzImageMagicOffset = "HdrS", 0x202     // Documentation/x86/boot.rst
	lapicParameter                   = "lapic_timer_khz" // of our patch
)

// collect puts the results of a finished build in src into out, checks them,
// and describes them in k.
func collect(ctx context.Context, r *runner, tc toolchain, k *Kernel, src, out string) error {
	release := k.Release()
	vmlinux := filepath.Join(out, "vmlinux-"+release)
	if k.Arch == AArch64 {
		if err := copyFile(filepath.Join(src, "arch/arm64/boot/Image"), vmlinux); err != nil {
			return err
		}
		if err := checkMagic(vmlinux, imageMagicOffset, imageMagic); err != nil {
			return err
		}
	} else {
		// Symbols and relocations are no use to a VMM.
		if err := r.run(ctx, nil, nil, tc.Cross+"objcopy", "-S", "-R", ".comment", "vmlinux", vmlinux); err != nil {
			return err
		}
		if err := os.Chmod(vmlinux, 0o644); err != nil {
			return fmt.Errorf("store kernel: %w", err)
		}
		if err := checkVmlinux(vmlinux); err != nil {
			return err
		}
		bz := filepath.Join(out, "bzImage-"+release)
		if err := copyFile(filepath.Join(src, "arch/x86/boot/bzImage"), bz); err != nil {
			return err
		}
		if err := checkMagic(bz, bzImageMagicOffset, bzImageMagic); err != nil {
			return err
		}
		f, err := describe(ctx, bz)
		if err != nil {
			return err
		}
		k.BzImage = &f
		text, err := os.ReadFile(vmlinux)
		if err != nil {
			return fmt.Errorf("read kernel: %w", err)
		}
		k.LAPICTimerKHz = bytes.Contains(text, []byte(lapicParameter+"\x00"))
	}
	config := filepath.Join(out, "config")
	if err := copyFile(filepath.Join(src, ".config"), config); err != nil {
		return err
	}
	var err error
	if k.Vmlinux, err = describe(ctx, vmlinux); err != nil {
		return err
	}
	k.Config, err = describe(ctx, config)
	return err
}

func describe(ctx context.Context, path string) (File, error) {
	sum, err := fileSHA256(ctx, path)
	if err != nil {
		return File{}, fmt.Errorf("read kernel: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return File{}, fmt.Errorf("read kernel: %w", err)
	}
	return File{Name: filepath.Base(path), Size: info.Size(), SHA256: sum}, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy a build's result: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("copy a build's result: %w", err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("copy a build's result: %w", err)
	}
	return nil
}
