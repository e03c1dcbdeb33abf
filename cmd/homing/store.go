package main

import (
	"errors"
	"fmt"

	"github.com/homing-mq/homing/internal/config"
	"github.com/homing-mq/homing/internal/store"
)

type storeCmd struct {
	Check  storeCheckCmd  `cmd:"" help:"Verify the store and show all damage."`
	Repair storeRepairCmd `cmd:"" help:"Move what is damaged aside and save the rest."`
}

// dataFlags say where the store is.
type dataFlags struct {
	configFlags
	Data *string `placeholder:"DIR" help:"Directory of stored messages (data)."`
}

func (f *dataFlags) dir(con *console) (string, error) {
	var flags []config.Flag
	if f.Data != nil {
		flags = append(flags, config.Flag{Name: "--data", Key: "data", Value: *f.Data})
	}
	cfg, err := f.load(con, flags...)
	if err != nil {
		return "", err
	}
	return cfg.Data, nil
}

type storeCheckCmd struct{ dataFlags }

func (*storeCheckCmd) Help() string {
	return `Reads every stored message and all metadata, and changes nothing. The server must be stopped. The exit code is 1 if
there is damage.

Example:

    homing store check --data ./data`
}

var errDamaged = errors.New("the store is damaged; `homing store repair` moves what is damaged aside and saves the rest")

func (c *storeCheckCmd) Run(con *console) error {
	dir, err := c.dir(con)
	if err != nil {
		return err
	}
	report, err := store.Check(nil, dir)
	if err != nil {
		return err
	}
	fmt.Fprint(con.Out, report.String())
	if !report.OK() {
		return errDamaged
	}
	fmt.Fprintln(con.Out, "no damage")
	return nil
}

type storeRepairCmd struct{ dataFlags }

func (*storeRepairCmd) Help() string {
	return `Makes a damaged store usable again: what cannot be read is moved to DATA/bad and the rest is kept. Nothing is deleted.
The server must be stopped. It says what it did, and what may be lost.

Example:

    homing store repair --data ./data`
}

func (c *storeRepairCmd) Run(con *console) error {
	dir, err := c.dir(con)
	if err != nil {
		return err
	}
	did, err := store.Repair(nil, dir)
	for _, line := range did {
		fmt.Fprintln(con.Out, line)
	}
	if err == nil && len(did) == 0 {
		fmt.Fprintln(con.Out, "no damage, nothing to do")
	}
	return err
}
