package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guest/exec"
	"github.com/agentkernel/agentkernel/internal/guest/identity"
)

// maxFreeze bounds how long the commands may take to freeze.
const maxFreeze = time.Minute

type cloneService struct {
	*service
	turn  sync.Mutex // one Prepare or Resume at a time
	spent bool       // the disks of a template were mounted, or should have been
}

// Prepare freezes the commands.
func (s *cloneService) Prepare(ctx context.Context, req *guestv1.PrepareRequest) (*guestv1.PrepareResponse, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if req.GetSync() {
		s.o.Machine.Sync() // so that there is little to write while the commands stand still
	}
	freezeCtx, cancel := context.WithTimeout(ctx, min(time.Duration(req.GetTimeoutMs())*time.Millisecond, maxFreeze))
	defer cancel()
	if err := s.o.Runner.Freeze(freezeCtx); err != nil {
		return nil, err
	}
	if req.GetSync() {
		s.o.Machine.Sync()
	}
	if ctx.Err() != nil { // nobody waits for it any more
		return nil, errors.Join(context.Cause(ctx), s.o.Runner.Thaw(false))
	}
	return &guestv1.PrepareResponse{}, nil
}

// Resume makes what goes on what the host says that it is, and lets its commands run.
func (s *cloneService) Resume(ctx context.Context, req *guestv1.ResumeRequest) (*guestv1.ResumeResponse, error) {
	began := time.Now()
	s.turn.Lock()
	defer s.turn.Unlock()
	var r identity.Report
	// First of all, and not when a host that waits for its turn has become older.
	r.Pass("clock", "", s.o.Machine.SetClock(time.Unix(0, req.GetUnixNano()).Add(time.Since(began))))
	if err := s.o.Machine.AddEntropy(req.GetEntropy()); err != nil {
		return nil, err // without it, two copies would draw the same numbers
	}
	r.Pass("entropy", "the host gave some, and the kernel's random generator began anew with it", nil)
	isCopy := false
	switch req.GetKind() {
	case guestv1.ResumeRequest_ORIGINAL:
		if err := s.ready(); err != nil {
			return nil, err
		}
	case guestv1.ResumeRequest_COPY:
		isCopy = true
		if err := s.ready(); err != nil {
			return nil, err
		}
	case guestv1.ResumeRequest_TEMPLATE:
		if err := s.enter(req.GetDisks()); err != nil {
			return nil, err
		}
		r.Pass("disks", roles(req.GetDisks()), nil)
	default:
		return nil, status.Errorf(codes.InvalidArgument, "there is no kind %d of going on", req.GetKind())
	}
	named := req.GetKind() != guestv1.ResumeRequest_ORIGINAL
	var gone hostKeys
	if named {
		gone = s.name(&r, req, isCopy)
	}
	if err := s.o.Runner.Thaw(isCopy); err != nil {
		return nil, err
	}
	if named {
		s.makeKeys(ctx, &r, gone)
	}
	return &guestv1.ResumeResponse{Items: r.Items, Clock: clock(began)}, nil
}

// enter makes a sandbox of a template.
func (s *cloneService) enter(disks []*guestv1.ResumeDisk) error {
	if s.o.Enter == nil || s.spent {
		return status.Error(codes.FailedPrecondition, "this microVM is no template, or not any more")
	}
	s.spent = true
	if err := s.o.Enter(disks); err != nil {
		return fmt.Errorf("make a sandbox of the template: %w", err)
	}
	s.entered.Store(true)
	return nil
}

// roles lists what disks there are.
func roles(disks []*guestv1.ResumeDisk) string {
	var names []string
	for _, d := range disks {
		role, _, _ := strings.Cut(d.GetDisk(), ":")
		names = append(names, role)
	}
	return strings.Join(names, ", ")
}

// identified is what has a guest's names.
type identified interface {
	GetHostname() string
	GetMachineId() string
}

// hostKeys says how many SSH host keys were deleted, or why not all that should have been.
type hostKeys struct {
	deleted int
	err     error
}

// name gives the guest its names, and takes from it what it is known by and should not be.
func (s *service) name(r *identity.Report, id identified, copied bool) (gone hostKeys) {
	s.o.Machine.SetNames(r, id.GetHostname(), id.GetMachineId())
	gone.deleted, gone.err = s.o.Machine.RemoveHostKeys(copied)
	return gone
}

// makeKeys has the image's own program make SSH host keys in place of those that were deleted, in the background: those of all
// kinds take seconds. Commands may run by then.
func (s *service) makeKeys(ctx context.Context, r *identity.Report, gone hostKeys) {
	const item = "ssh-host-keys"
	if gone.err != nil {
		r.Pass(item, "", gone.err)
		return
	}
	if gone.deleted == 0 {
		r.None(item, "there are none but the sandbox's own")
		return
	}
	text := fmt.Sprintf("%d files with keys of others are deleted", gone.deleted)
	c, err := s.o.Runner.Start(ctx, &guestv1.ExecStart{Id: "ssh-keygen", Argv: []string{"ssh-keygen", "-A"}, Cwd: "/", Detach: true})
	var why *exec.Error
	switch {
	case errors.As(err, &why) && why.Reason == guestv1.ExecFailed_NOT_FOUND:
		r.Pass(item, text+"; there is no ssh-keygen to make others", nil)
	case err != nil:
		r.Pass(item, "", fmt.Errorf("%s, and no others can be made: %w", text, err))
	default:
		c.Detach(0)
		r.Pass(item, text+", and ssh-keygen makes others; an SSH server that runs has to be started again", nil)
	}
}

// clock is what the host measures this guest's clock by.
func clock(began time.Time) *guestv1.Clock {
	return &guestv1.Clock{UnixNano: time.Now().UnixNano(), TookNs: int64(time.Since(began))}
}
