// What a front-end developer writes with the stock client. The address and
// the token are arguments of the environment; each step is printed as a line
// of JSON, which the test in Go compares.
import { PostgrestClient } from '@supabase/postgrest-js'

const db = new PostgrestClient(process.env.TEST_URL, {
  headers: { Authorization: `Bearer ${process.env.TEST_TOKEN}` },
})
const inmuebles = () => db.from('inmuebles')
const show = (step, { data, error, count, status }) =>
  console.log(JSON.stringify({ step, data: data ?? undefined, count: count ?? undefined, status,
    code: error?.code, message: error?.message && true, details: error?.details || undefined, hint: error?.hint || undefined }))

show('select', await inmuebles().select('_id,lat:y_coord').order('_id').limit(2))
show('eq', await inmuebles().select('_id').eq('listing_type', 1))
show('in', await inmuebles().select('_id').in('title', ['Casa, (2)', 'a\\b']))
show('gte lt', await inmuebles().select('_id').gte('start_month', 2).lt('start_month', 4))
show('or', await inmuebles().select('_id').or('boundary_id.is.null,title.eq."Piso \\"A\\", (1)"'))
show('not', await inmuebles().select('_id').not('boundary_id', 'is', null).not('title', 'in', '("Casa, (2)")'))
show('ilike', await inmuebles().select('_id').ilike('title', '%piso%'))
show('textSearch', await inmuebles().select('_id').textSearch('title', 'piso & !a'))
show('textSearch of plain text', await inmuebles().select('_id').textSearch('text', 'casa 2', { type: 'plain' }))
show('is', await inmuebles().select('_id').is('boundary_id', null))
show('match', await inmuebles().select('_id').match({ listing_type: 2, start_month: 3 }))
show('order', await inmuebles().select('_id').order('date', { ascending: false }).order('_id'))
show('nulls', await inmuebles().select('_id').order('boundary_id', { ascending: false, nullsFirst: false }).order('_id'))
show('range', await inmuebles().select('_id', { count: 'exact' }).order('_id').range(1, 2))
show('head', await inmuebles().select('*', { count: 'exact', head: true }))
show('single', await inmuebles().select('_id,title').eq('_id', 'c').single())
show('single of none', await inmuebles().select('_id').eq('_id', 'x').single())
show('single of many', await inmuebles().select('_id').single())
show('maybeSingle', await inmuebles().select('_id').eq('_id', 'c').maybeSingle())
show('maybeSingle of none', await inmuebles().select('_id').eq('_id', 'x').maybeSingle())
show('unknown', await inmuebles().select('_id').eq('surface', 1))

const piso = { other_id: 'N1', build_status: 1, is_active: true, start_month: 9, date_in: '2026-01-15', property_type: 1,
  end_week: 1, typology_type: 1, x_coord: -3.7, y_coord: 40.4, listing_type: 9, date: '2026-01-20', title: 'Nuevo' }
const made = await inmuebles().insert(piso).select('_id,title').single()
show('insert', { ...made, data: { title: made.data?.title } })
show('insert of two', await inmuebles().insert([{ ...piso, title: 'x' }, { ...piso, title: 'y' }]).select('title'))
const plain = await inmuebles().insert(piso)
show('insert of nothing back', { status: plain.status, error: plain.error })
show('update', await inmuebles().update({ title: 'Otro' }).eq('_id', made.data._id).select('title'))
show('update of none', await inmuebles().update({ title: 'Otro' }).eq('_id', 'x').select('title'))
show('update of nothing back', await inmuebles().update({ start_month: 10 }).eq('_id', made.data._id))
show('updated', await inmuebles().select('title,start_month').eq('_id', made.data._id).single())
show('update of everything', await inmuebles().update({ title: 'Otro' }).eq('listing_type', 9))
show('delete', await inmuebles().delete().eq('_id', made.data._id).select('title').single())
show('delete again', await inmuebles().delete().eq('_id', made.data._id))
show('upsert', await inmuebles().upsert({ ...piso, _id: 'c', title: 'Encima' }).select('_id,title'))
