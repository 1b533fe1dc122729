package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

const (
	// freezeTimeout is how long the commands of a guest may take to freeze, and answerTimeout how much longer the answer.
	freezeTimeout = 2 * time.Second
	answerTimeout = 10 * time.Second
	// syncTimeout is how much longer it may take when it has to write to its disks.
	syncTimeout = 2 * time.Minute
	// resumeTimeout bounds what a guest does before it goes on: it may have disks to mount whose journals must be replayed.
	resumeTimeout = time.Minute
)

// prepare freezes all commands of the guest, before its microVM is saved, and with sync has it write what it has in memory to its
// disks, so that these alone are of use too. When there is an error, they run, unless the guest is
// hostile or the connection broke; a resume that follows makes sure.
func (g *guest) prepare(ctx context.Context, sync bool) error {
	if !g.can(guestrpc.CloneCapability) {
		return errOldAgent
	}
	patience := freezeTimeout + answerTimeout
	if sync {
		patience += syncTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the guest agent did not say in time that all commands are frozen"))
	defer cancel()
	client, err := g.control(ctx)
	if err != nil {
		return err
	}
	return client.Prepare(ctx, freezeTimeout, sync)
}

var errOldAgent = sandbox.Errorf(sandbox.Unavailable, "stop the sandbox and start it again", "its guest agent is older than this agentkernel, and cannot be saved")

// resume has the guest of a microVM go on: one that was prepared or paused, or that goes on from a saved state. Its commands run
// when it returns without an error; what the guest said of its hygiene is for the record, and may have items that failed. A guest
// that was a template gets the disks of its machine, which must be as the engine has launched it.
func (g *guest) resume(ctx context.Context, kind guestrpc.ResumeKind) (*sandbox.Hygiene, error) {
	if !g.can(guestrpc.CloneCapability) {
		return nil, errOldAgent
	}
	ctx, cancel := context.WithTimeoutCause(ctx, resumeTimeout, fmt.Errorf("the guest did not go on within %v", resumeTimeout))
	defer cancel()
	spec := guestrpc.ResumeSpec{Kind: kind}
	if kind != guestrpc.ResumeOriginal {
		spec.Identity = g.identity
	}
	if kind == guestrpc.ResumeTemplate {
		placer, ok := g.machine.(sandbox.Placer)
		if !ok {
			return nil, errors.New("the engine does not say where a template's disks are")
		}
		for _, d := range placer.GuestDisks() {
			if d.Role != sandbox.RootLower { // which it has
				spec.Disks = append(spec.Disks, d)
			}
		}
	}
	client, err := g.control(ctx)
	if err != nil {
		return nil, err
	}
	items, err := client.Resume(ctx, spec)
	if err != nil {
		return nil, err
	}
	from := map[guestrpc.ResumeKind]string{
		guestrpc.ResumeOriginal: sandbox.FromItself, guestrpc.ResumeCopy: sandbox.FromSnapshot, guestrpc.ResumeTemplate: sandbox.FromTemplate,
	}
	return &sandbox.Hygiene{From: from[kind], At: time.Now().UTC(), Items: items}, nil
}

// booted is the hygiene of a microVM that has booted.
func (g *guest) booted() *sandbox.Hygiene {
	items := append([]sandbox.HygieneItem{{Name: "entropy", Result: sandbox.HygienePass, Reason: "its own kernel has collected it since it booted"}}, g.info().Hygiene...)
	return &sandbox.Hygiene{From: sandbox.FromBoot, At: time.Now().UTC(), Items: items}
}

// goOn is for a sandbox that goes on as itself after its vCPUs stood still: its clock is set, and commands that were frozen run. It
// runs also when that fails, which is the guest's own loss. The caller holds op.
func (m *Manager) goOn(ctx context.Context, b *box, g *guest) {
	h, err := g.resume(ctx, guestrpc.ResumeOriginal)
	if err != nil && ctx.Err() == nil { // the connection may have ended when it was saved, and nobody had noticed
		g.hangUp()
		h, err = g.resume(ctx, guestrpc.ResumeOriginal)
	}
	if err == nil {
		rec := b.record()
		rec.Hygiene = h.After(rec.Hygiene)
		err = m.save(b, rec)
	}
	if err != nil {
		m.log.Warn("have a guest go on", "sandbox", b.record().Spec.Name, "err", err)
	}
}

// takeUp ends what an earlier daemon left half done with a guest that is adopted: commands that it had frozen for a snapshot run
// again, and a guest that was being restored becomes what its record says that it goes on from. Another is lost, since it is not
// known what it was to become.
func (g *guest) takeUp(ctx context.Context, rec sandbox.Record) error {
	// What was asked for when the daemon died may be under way still, and then the guest does not wait for anything yet.
	if g.info().Awaits == guestrpc.AwaitsNothing && !rec.Saving {
		return nil
	}
	kind := guestrpc.ResumeOriginal
	if rec.State == sandbox.Starting && rec.Restore != nil {
		kind = goingOn(rec.Restore.Kind)
	} else if rec.State == sandbox.Starting || g.info().Awaits == guestrpc.AwaitsDisks {
		return errors.New("the daemon died while it was restored")
	}
	h, err := g.resume(ctx, kind)
	g.tookUp = h
	return err
}
