package manager

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/transport/bulk"
)

// Files returns the files of a running sandbox.
func (m *Manager) Files(ctx context.Context, name string) (*guestrpc.Files, error) {
	r, err := m.running(ctx, name)
	if err != nil {
		return nil, err
	}
	begin := func(ctx context.Context, req *guestv1.StreamRequest) (guestrpc.Conn, error) {
		conn, err := r.dial(ctx, sandbox.GuestStreamPort)
		if err != nil {
			return nil, err
		}
		c, err := guestrpc.OpenStream(ctx, conn, req)
		if err != nil {
			return nil, err
		}
		return c.Conn, nil // files are not sent in chunks
	}
	return guestrpc.NewFiles(begin, r.explainFiles, m.bulk(r)), nil
}

// bulk is where large pieces pass between this host and a guest; nil where the channel is as fast, which only a serial port is not.
func (m *Manager) bulk(r running) *bulk.Area {
	if r.machine.Record().LinkToken == "" {
		return nil
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.b.bulk == nil { // one for the whole life of the sandbox: it knows which regions are in use
		r.b.bulk = bulk.New(filepath.Join(m.d.Store.Dir(r.b.rec.ID), upperFile), int64(r.b.rec.Spec.DiskMiB)<<20)
	}
	return r.b.bulk
}

// explainFiles says whether the end of the microVM is behind an error of a connection to it.
func (r running) explainFiles(err error) error {
	if errors.Is(err, context.Canceled) { // whoever wanted it is gone
		return err
	}
	rec := r.b.record()
	name := rec.Spec.Name
	if !r.guest.gone(r.watched) {
		return sandbox.Errorf(sandbox.Failure, "", "copy to or from sandbox %q: %w", name, err)
	}
	reason := r.b.record().Reason
	if reason == "" {
		reason = "it was stopped"
	}
	return sandbox.Errorf(sandbox.Failure, fmt.Sprintf("agentkernel logs %s shows its console; agentkernel start %s starts it again", name, name),
		"the microVM of sandbox %q ended meanwhile: %s", name, reason)
}
