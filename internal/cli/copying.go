package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	apiv1 "github.com/agentkernel/agentkernel/api/v1"
	"github.com/agentkernel/agentkernel/internal/archive"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/pkg/client"
)

// copying is a copy that is under way. What comes from a sandbox is unpacked here, in the user's own process and with the
// user's rights; the daemon passes bytes through.
type copying struct {
	owner, follow, quiet bool

	env      *env
	client   *client.Client
	meter    *meter
	leftOut  int
	warnings []string
}

// keepXattr says which extended attributes travel between host and guest: a user's own. The others give rights.
func keepXattr(name string) bool { return strings.HasPrefix(name, "user.") }

func (c *copying) run(ctx context.Context, from, to endpoint) error {
	if from.pipe {
		return c.put(ctx, to.sandbox, to.path, c.env.in)
	}
	source, err := c.look(ctx, from, c.follow)
	if err != nil {
		return err
	}
	if to.pipe {
		return c.get(ctx, from, "", func(r io.Reader) error {
			_, err := io.CopyBuffer(c.env.out, struct{ io.Reader }{r}, make([]byte, 256<<10))
			return err
		})
	}
	target, err := missing(c.look(ctx, to, true))
	if err != nil {
		return err
	}
	dir, as, err := place(from, to, source, target)
	if err != nil {
		return err
	}
	switch {
	case from.sandbox == "":
		return c.send(ctx, from, to, dir, as)
	case to.sandbox == "":
		return c.get(ctx, from, as, func(r io.Reader) error { return c.unpack(r, dir, as) })
	}
	return c.get(ctx, from, as, func(r io.Reader) error { return c.put(ctx, to.sandbox, dir, r) })
}

// look looks at a side of the copy.
func (c *copying) look(ctx context.Context, at endpoint, follow bool) (kindOf, error) {
	if at.sandbox == "" {
		return lookHere(at.path, follow)
	}
	info, err := c.client.StatFile(ctx, at.sandbox, at.path, follow)
	var remote *client.Error
	if errors.As(err, &remote) && remote.Code == apiv1.ErrorCodeNotFound {
		if _, missing := c.client.Get(ctx, at.sandbox); missing != nil {
			return kindOf{}, err
		}
		return kindOf{}, &missingError{err}
	}
	return kindOf{err == nil, info.Type == apiv1.Directory, client.FileName(info)}, err
}

// missingError is a path that does not exist in a sandbox that does.
type missingError struct{ error }

func (e *missingError) Unwrap() []error { return []error{e.error, os.ErrNotExist} }

// get receives an archive of the source and hands it to use.
func (c *copying) get(ctx context.Context, from endpoint, as string, use func(io.Reader) error) error {
	a, err := c.client.GetArchive(ctx, from.sandbox, from.path, client.ArchiveOptions{As: as, Follow: c.follow})
	if err != nil {
		return err
	}
	defer a.Close()
	if err := use(c.meter.reader(a)); err != nil {
		return err
	}
	c.count(a.Copied)
	return nil
}

func (c *copying) count(r client.Copied) {
	c.leftOut += r.LeftOut
	if r.Warnings != nil {
		c.warnings = append(c.warnings, *r.Warnings...)
	}
}

// put sends an archive to a directory of a sandbox.
func (c *copying) put(ctx context.Context, name, dir string, r io.Reader) error {
	if _, ok := r.(*meterReader); !ok { // it counts already
		r = c.meter.reader(r)
	}
	copied, err := c.client.PutArchive(ctx, name, dir, c.owner, r)
	c.count(copied)
	return err
}

// unpack unpacks a guest's archive on the host.
func (c *copying) unpack(r io.Reader, dir, as string) error {
	o := archive.UnpackOptions{Only: as, Owner: c.owner, KeepXattr: keepXattr}
	if as == "." {
		o.Only = ""
	}
	w, err := archive.Unpack(r, dir, o)
	c.warn(w)
	var format *archive.FormatError
	var name *archive.NameError
	if errors.As(err, &format) || errors.As(err, &name) {
		return sandbox.Errorf(sandbox.Failure, "look at the sandbox: its files or its guest agent may have been tampered with", "the sandbox sent an archive that cannot be right: %w", err)
	}
	return err
}

func (c *copying) warn(w archive.Warnings) {
	c.leftOut += w.Count
	c.warnings = append(c.warnings, w.Text...)
}

// send sends files of the host.
func (c *copying) send(ctx context.Context, from, to endpoint, dir, as string) error {
	type result struct {
		warnings archive.Warnings
		err      error
	}
	r, w := io.Pipe()
	packed := make(chan result, 1)
	go func() {
		warnings, err := archive.Pack(w, from.path, archive.PackOptions{Name: as, Follow: c.follow, KeepXattr: keepXattr})
		_ = w.CloseWithError(err)
		packed <- result{warnings, err}
	}()
	err := c.put(ctx, to.sandbox, dir, r)
	_ = r.CloseWithError(errPutEnded)
	p := <-packed
	c.warn(p.warnings)
	if p.err != nil && !errors.Is(p.err, errPutEnded) {
		return fmt.Errorf("read what is to be copied: %w", p.err)
	}
	return err
}

// errPutEnded is what packing ends with when the sandbox takes no more: why is in the other error.
var errPutEnded = errors.New("the sandbox takes no more")
