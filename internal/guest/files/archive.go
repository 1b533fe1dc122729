package files

import (
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/archive"
)

// keepXattr says which extended attributes travel: all but those by which an overlay keeps its own books.
func keepXattr(name string) bool { return !strings.HasPrefix(name, "trusted.overlay.") }

func (o *operation) pack(req *guestv1.Pack) error {
	path, err := clean(req.GetPath())
	if err != nil {
		return err
	}
	found, err := look(path, req.GetFollow())
	if err != nil {
		return err
	}
	name := string(req.GetName())
	if name == "" {
		name = archive.Base(path)
	}
	if err := o.accept(); err != nil {
		return err
	}
	if err := o.send(found); err != nil {
		return err
	}
	o.sendFar()
	return o.end(result(archive.Pack(o.out, path, archive.PackOptions{
		Name: name, Follow: req.GetFollow(), KeepXattr: keepXattr, Direct: o.memory(),
	})))
}

func result(w archive.Warnings, err error) *guestv1.FilesResult {
	r := &guestv1.FilesResult{Failure: failure(err), LeftOut: uint32(min(w.Count, 1<<32-1))}
	for _, text := range w.Text {
		r.Warnings = append(r.Warnings, strings.ToValidUTF8(cut(text), "\ufffd"))
	}
	return r
}

func (o *operation) unpack(req *guestv1.Unpack) error {
	path, err := clean(req.GetPath())
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil {
		err = isDirectory(path)
	}
	if err != nil {
		return err
	}
	if err := o.accept(); err != nil {
		return err
	}
	source := o.source()
	return o.end(result(archive.Unpack(source, path, archive.UnpackOptions{
		Owner: req.GetOwner(), SetID: true, Devices: true, KeepXattr: keepXattr, Direct: o.memory(),
	})))
}

func isDirectory(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("unpack into %s: %w", path, unix.ENOTDIR)
	}
	return nil
}
